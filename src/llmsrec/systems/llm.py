"""TALLRec, LLaRA, CoLLM and A-LLMRec in retrieval: LLM-SRec's heads and Eq. 1, with other prompts and adapters.

What each has is in its systems/<system>.yaml; all else is as params.yaml says for LLM-SRec, but for distillation and
uniformity, which are LLM-SRec's own. A-LLMRec's f_I reads the item codes of its stage 1.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from llmsrec import distributed
from llmsrec.engine.prefix_store import Budget
from llmsrec.files import read_json
from llmsrec.models.llm import allmrec, retrieval
from llmsrec.models.llm.retrieval import LLMSRec, Parts
from llmsrec.models.llm.settings import SETTINGS as SETTINGS
from llmsrec.models.llm.settings import changed
from llmsrec.params import Model, Train
from llmsrec.systems.task import BACKBONE, Ranked, Task
from llmsrec.training.loop import Curve
from llmsrec.training.retrieval import Validation
from llmsrec.training.schedules import SCHEDULES


def train(task: Task) -> Curve:
    """Train into `task.folder`."""
    of, params = task.settings, task.params
    model_settings, train_settings = settings_of(task)
    config: dict[str, Any] = {
        "model": model_settings.model_dump(),
        "backbone": of.loading(params.backbone.dtype, params.backbone.quantization),
        "seed": train_settings.seed,
        "parts": {"item_embedding": of.item_embedding, "cf_user": False},
    }
    model = retrieval.build(
        BACKBONE,
        task.models / model_settings.teacher,
        task.catalogue,
        config["model"],
        config["backbone"],
        config["seed"],
        prefixes(task),
        Parts(**config["parts"]),
        codes(task, allmrec.STAGE1),
    )
    model.configure_layers(params.backbone.gradient_checkpointing, params.backbone.compile)
    at_most = params.evaluate.validation_users
    drawn, seed = task.split / "candidates.parquet", train_settings.seed
    valid = Validation.of(task.valid, drawn, at_most, seed, params.data.repeats)
    fit = SCHEDULES[of.schedule]
    curve = fit(model, task.sequences, valid, model_settings, train_settings, task.resume)
    if distributed.is_main():
        model.save(task.folder, config)
        if task.system == "a_llmrec":
            allmrec.copy(allmrec.STAGE1, task.folder)
    return curve


def rank(task: Task) -> Ranked:
    """Rank by dot products of f_user's and f_item's vectors."""
    own = codes(task, task.folder)
    teacher = task.models / read_json(task.folder / "config.json")["model"]["teacher"]
    model: LLMSRec = retrieval.load(task.folder, BACKBONE, teacher, task.catalogue, prefixes(task), own)
    vectors = {"items": model.item_vectors().numpy()}
    for split, cases in task.cases.items():
        vectors[split] = model.user_vectors(cases.histories, label=split).numpy()[1:]
    return task.rank_vectors(vectors)


def settings_of(task: Task) -> tuple[Model, Train]:
    """params.yaml's `model` and `train` as this system has them."""
    where, instead = f"systems/{task.system}.yaml", task.settings.retrieval
    own = {"distill": False, "uniform": False, "user_representation": task.settings.user_representation}
    model = changed(task.params.model, instead.model | own, where)
    weights = model.weights.model_copy(update={"cf_retrieval": 0.0})
    return model.model_copy(update={"weights": weights}), changed(task.params.train, instead.train, where)


def codes(task: Task, folder: Path) -> Tensor | None:
    """What f_I reads instead of the teacher's item vectors: the codes of A-LLMRec's stage 1 in `folder`."""
    return allmrec.read(folder, task.items) if task.system == "a_llmrec" else None


def prefixes(task: Task) -> Budget:
    """What the keys and values of item prompts' beginnings may take."""
    return Budget.of(task.params.backbone.prefixes, task.root)
