"""What one trial trains, in either fidelity, and the inputs that decide its value beside params.yaml."""

import fcntl
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from llmsrec import models
from llmsrec.data import held_out
from llmsrec.data.held_out import HeldOut
from llmsrec.data.sequences import Sequences
from llmsrec.errors import ParamsError
from llmsrec.files import read_json, sha256
from llmsrec.models.cf import teacher as teachers
from llmsrec.models.llm import retrieval as llm_srec
from llmsrec.params import FRESH, Params
from llmsrec.training import next_item as sasrec_training
from llmsrec.training import remembered
from llmsrec.training.retrieval import Validation, train
from llmsrec.training.schedules import heads_first
from llmsrec.tuning import space

Curve = list[dict[str, Any]]
# (parameters, folder to go on in after a kill, what is called with the curve at each check) -> the curve
Trainer = Callable[[Params, Path, Callable[[Curve], None]], Curve]

INTERACTIONS, ITEMS = Path("data/filtered/interactions.parquet"), Path("data/filtered/items.parquet")
TRAIN, VALID, CANDIDATES = (Path(f"data/split/{name}.parquet") for name in ("train", "valid", "candidates"))
MODELS, BACKBONE, CHECKPOINT = Path("models"), Path("models/backbone"), Path("models/llm_srec")


def inputs(params: Params) -> dict[str, str]:
    """Digest of each file and folder that a trial reads."""
    used = [INTERACTIONS, ITEMS, TRAIN, VALID, CANDIDATES, BACKBONE]
    used += [] if _tunes_teacher(params) else [MODELS / params.model.teacher]
    used += [CHECKPOINT] if params.tune.fidelity == "heads" else []
    for path in used:
        if not path.exists():
            raise ParamsError(f"{path} is not there, so there is nothing to tune on; run `dvc repro` first.")
    return {str(path): sha256(path) for path in used}


def trainer(params: Params, cache: Path) -> Trainer:
    """What trains one configuration; with `heads`, everything that all trials share is computed or found now.

    Args:
        cache: folder for the language model's outputs.
    """
    if params.train.start not in FRESH:
        print(
            f"train.start is {params.train.start}, but trials begin from scratch: a version fixes the shapes that a "
            "study may search, and what wins from its weights says little about other values",
            flush=True,
        )
    interactions = Sequences.read(INTERACTIONS)
    sequences, valid = Sequences.read(TRAIN, interactions.users), _valid(params)
    settings = params.evaluate.validation_users, params.train.seed, params.data.repeats
    validation = Validation.of(valid, CANDIDATES, *settings)
    if params.tune.fidelity == "full":
        return partial(_full, sequences, validation)

    _fits(params)
    checkpointed = partial(llm_srec.load, CHECKPOINT, BACKBONE, MODELS / params.model.teacher, ITEMS)
    code = sha256(Path(models.__file__).parent)
    asked = [inputs(params), code, params.train.targets, params.evaluate.validation_users, params.train.seed]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    outputs = _outputs(cache, key, checkpointed, sequences, validation, params.train)
    return partial(_heads, sequences, validation, outputs, checkpointed())


def _outputs(cache: Path, key: str, *given: Any) -> remembered.Outputs:
    """See `remembered.remember`; one process computes, and others that want the same wait for it."""
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{key[:32]}.safetensors"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return remembered.remember(path, key, *given)


def _heads(
    sequences: Sequences,
    validation: Validation,
    outputs: remembered.Outputs,
    checkpointed: llm_srec.LLMSRec,
    params: Params,
    resume: Path,
    on_check: Callable[[Curve], None],
) -> Curve:
    prompts, teacher = checkpointed.prompts, checkpointed.teacher
    model = remembered.RememberedHeads(outputs, prompts, teacher, params.model, params.train.seed)
    return train(model, sequences, validation, params.model, params.train, resume, on_check, remembered.losses_of)


def _full(
    sequences: Sequences, validation: Validation, params: Params, resume: Path, on_check: Callable[[Curve], None]
) -> Curve:
    """As the stages sasrec (where its settings are tuned) and llm_srec train."""
    teacher = None
    if _tunes_teacher(params):
        teacher = resume / "teacher"
        trained, _ = sasrec_training.train(
            sequences,
            histories=validation.histories,
            targets=_valid(params).targets,
            items=int(Sequences.read(INTERACTIONS).items.max()),
            settings=params.sasrec,
            resume=resume / "sasrec",
            repeats=params.data.repeats,
        )
        teachers.save(trained, teacher)
    fit = heads_first if params.train.start == "heads" else train
    return fit(untrained(params, teacher), sequences, validation, params.model, params.train, resume, on_check)


def _valid(params: Params) -> HeldOut:
    return held_out.read(Sequences.read(INTERACTIONS), VALID.parent, "valid", params.split.by)


def untrained(params: Params, teacher: Path | None = None) -> llm_srec.LLMSRec:
    """LLM-SRec as the stage llm_srec begins with it."""
    loading = params.backbone.model_dump(include={"dtype", "quantization", "lora_rank"})
    model = llm_srec.build(
        BACKBONE, teacher or MODELS / params.model.teacher, ITEMS, params.model.model_dump(), loading, params.train.seed
    )
    model.configure_layers(params.backbone.gradient_checkpointing, params.backbone.compile)
    return model


def _tunes_teacher(params: Params) -> bool:
    tuned = [dimension.key for dimension in params.tune.space if dimension.key.startswith("sasrec.")]
    if tuned and params.model.teacher != "sasrec":
        raise ParamsError(
            f"tune.space has {tuned[0]}, and model.teacher is {params.model.teacher}, which it would not change; take "
            "it out of the space, or set model.teacher to sasrec."
        )
    return bool(tuned)


def _fits(params: Params) -> None:
    """Refuse a checkpoint whose prompts are not those that params.yaml asks for."""
    trained, now = read_json(CHECKPOINT / "config.json")["model"], params.model.model_dump()
    for key in now:
        if f"model.{key}" not in space.HEADS and key != "weights" and trained.get(key) != now[key]:
            raise ParamsError(
                f"params.yaml has model.{key} {now[key]}, but {CHECKPOINT} was trained with {trained.get(key)}; "
                "run `dvc repro llm_srec` first."
            )
