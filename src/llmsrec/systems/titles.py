"""TALLRec, LLaRA, CoLLM and A-LLMRec by title: the prompt of Table 1, Eq. 5, and three readings of 20 titles.

What each has is in its systems/<system>.yaml, as for retrieval; all else is as params.yaml says. A-LLMRec's f_I reads
the item codes of its stage 1.
"""

from pathlib import Path
from typing import Any

import numpy as np

from llmsrec import distributed
from llmsrec.data import choices
from llmsrec.data.choices import Choices, Titles
from llmsrec.engine import backbone as backbones
from llmsrec.engine import lora
from llmsrec.errors import DataError
from llmsrec.evaluation import choice, ranks
from llmsrec.evaluation.cases import Cases
from llmsrec.evaluation.names import SASREC_TITLES, TITLES, VALID_RATIO
from llmsrec.files import read_json
from llmsrec.models.cf import teacher as teachers
from llmsrec.models.cf.teacher import Teacher
from llmsrec.models.llm import allmrec
from llmsrec.models.llm.settings import SETTINGS as SETTINGS
from llmsrec.models.llm.settings import changed
from llmsrec.models.llm.titles import TitleModel
from llmsrec.params import Model, Train
from llmsrec.prompts.retrieval import PromptSettings
from llmsrec.systems.task import BACKBONE, Ranked, Task
from llmsrec.training import titles as training
from llmsrec.training.loop import Curve

DRAWN = Path("data/titles/candidates.parquet")
STORED = {"valid": "valid", "test": "test", "test_shuffled": "test"}  # split -> whose titles it has


def train(task: Task) -> Curve:
    """Train into `task.folder`; the best check by HR@1 of the titles' mean likelihood is kept."""
    model_settings, train_settings = settings_of(task)
    config: dict[str, Any] = {
        "model": model_settings.model_dump(),
        "backbone": task.settings.loading(task.params.backbone.dtype, task.params.backbone.quantization),
        "seed": train_settings.seed,
        "item_embedding": task.settings.item_embedding,
    }
    model = build(task, config, allmrec.STAGE1)
    backbone = task.params.backbone
    model.configure_layers(backbone.gradient_checkpointing, backbone.compile)
    drawn, at_most = stored(task.valid.users, "valid"), task.params.evaluate.validation_users
    validation = training.Validation.of(task.valid, drawn, at_most, train_settings.seed)
    titles = Titles.of(task.titles)
    schedule = task.settings.schedule
    curve = training.train(model, task.sequences, titles, validation, train_settings, task.resume, schedule)
    if distributed.is_main():
        model.save(task.folder, config)
        if task.system == "a_llmrec":
            allmrec.copy(allmrec.STAGE1, task.folder)
    return curve


def rank(task: Task) -> Ranked:
    """The positive's rank among its 20 titles by three readings, and the teacher's among the same items."""
    model = build(task, read_json(task.folder / "config.json"), task.folder).fill(task.folder)
    teacher = model.teacher.system
    result = Ranked({}, beside={teacher: {}})
    for split, cases in task.cases.items():
        drawn = stored(cases.users, STORED[split])
        result.ranks[split], valid = read(model, cases, drawn, split)
        result.beside[teacher][split] = {SASREC_TITLES: ranks_of_teacher(model.teacher, cases, drawn)}
        result.figures[split] = {TITLES[-1]: {VALID_RATIO: valid}}
    return result


def build(task: Task, config: dict[str, Any], codes: Path) -> TitleModel:
    """The model that a folder's config.json describes, untrained.

    Args:
        codes: where the codes of A-LLMRec's stage 1 lie.
    """
    loading, seed = config["backbone"], config["seed"]
    backbone = backbones.load(BACKBONE, loading["dtype"], loading["quantization"], vocabulary=True)
    backbone = lora.tuned(backbone, loading, seed)
    of = Model.model_validate(config["model"])
    holds = PromptSettings.of(of, config["item_embedding"])
    own = allmrec.read(codes, len(task.titles)) if task.system == "a_llmrec" else None
    return TitleModel(backbone, teachers.load(task.models / of.teacher, of.teacher), task.titles, holds, seed, own)


def read(model: TitleModel, cases: Cases, drawn: Choices, split: str) -> tuple[dict[str, np.ndarray], float]:
    """The ranks of the positives by each reading, and the share of written texts that name a candidate."""
    readings = model.read(cases.histories, drawn, label=split)
    which = choice.chosen(readings.texts, [[model.shown[item] for item in row] for row in drawn.items.tolist()])
    of = {
        "uni19_likelihood": choice.ranks(readings.summed, drawn.places),
        "uni19_mean_likelihood": choice.ranks(readings.mean, drawn.places),
        "uni19_generated": choice.ranks_of_chosen(which, drawn.places),
    }
    return of, float((which >= 0).mean())


def ranks_of_teacher(teacher: Teacher, cases: Cases, drawn: Choices) -> np.ndarray:
    """`[n]` its ranks of the positives among the same 20 items."""
    users, items = teacher.user_vectors(cases.histories)[1:], teacher.item_vectors()
    vectors = users.detach().cpu().numpy(), items.detach().cpu().numpy()
    return ranks.rank(*vectors, cases.targets, *cases.excluded, drawn.negatives)["uni99"]


def stored(users: np.ndarray, split: str) -> Choices:
    """What the users of a split choose from.

    Raises:
        DataError: the file is of other users.
    """
    theirs, drawn = choices.read(DRAWN, split)
    if not np.array_equal(theirs, users):
        raise DataError(
            f"{DRAWN} holds titles of {len(theirs)} users of {split}, and the split asks about {len(users)}, not the "
            "same; run `dvc repro baselines/dvc.yaml:titles`."
        )
    return drawn


def settings_of(task: Task) -> tuple[Model, Train]:
    """params.yaml's `model` and `train` as this system has them by title.

    Raises:
        ParamsError: a value that cannot be.
    """
    where, instead = f"systems/{task.system}.yaml", task.settings.titles
    own = {"user_representation": task.settings.user_representation}
    return changed(task.params.model, instead.model | own, where), changed(task.params.train, instead.train, where)
