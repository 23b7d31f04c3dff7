"""After the training: the weight of the tower `blend`, fitted on the users of the checks."""

import torch

from llmsrec.evaluation import blend, ranks
from llmsrec.evaluation.blend import Blend
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.training.retrieval import Validation


def fit(model: LLMSRec, validation: Validation) -> Blend:
    """What joins the scores of a trained model and of its teacher; several processes share the work.

    Args:
        validation: what is never part of test.
    """
    histories, users = validation.histories, validation.users
    seen, excluded = model.teacher.user_vectors(histories), histories.excluded(validation.repeats)
    return blend.fit(
        (model.user_vectors(histories, users).numpy(), seen[torch.from_numpy(users)].cpu().numpy()),
        (model.item_vectors().numpy(), model.teacher.item_vectors().detach().cpu().numpy()),
        validation.targets,
        *ranks.select(excluded.offsets, excluded.items, users),
    )
