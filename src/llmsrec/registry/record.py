"""What MLflow is told about a training: names and values, before any of them is logged."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmsrec.files import read_json, sha256
from llmsrec.params import FRESH, Params

# What a name says in words (`title`), or says anyway.
MARKED = ("model.distill", "model.uniform", "model.distill_loss", "model.user_representation", "split.shuffle_train")
NAMED_ANYWAY = ("data.source", "data.category", "data.dir", "data.revision", "backbone.model", "backbone.revision")
MOST_NAMED = 5
REPORTS = ("checks.json", "comparison.json", "ranks.parquet", "slices.parquet")  # the evidence for a promotion
SYSTEM, FORM = "system", "form"  # a compared system's run has these tags
TEST_USERS = "test_users.parquet"  # evidence as well; versions from before there was any are without
TOWER_RANKS = "tower_ranks.parquet"  # so are these, of `tower_blend` and `tower_cf`
EVIDENCE = (*REPORTS, TEST_USERS, TOWER_RANKS)  # what a run has that is made today
ADDED = "added.json"  # evidence of a version whose catalogue was made longer (`items.cost`)
SEALED = "evidence_sha256"  # the run's tag: digest of these, as they were logged


@dataclass(frozen=True)
class Record:
    """What a run says about a training and its evaluation.

    Attributes:
        digest: equal where all inputs were equal (Contract, "Run identity"); one run has it.
        name: what people see.
        params: what `used` leaves of params.yaml.
        evaluation: metrics/evaluation.json.
        curve: an entry for each check during training, with its `step`.
        data: name of a part of the data -> its digest.
        tags: more to search by.
        files: folder among the run's artifacts -> files and folders to put there.
        model: the one that the run is of, by its name in `evaluation`.
        seconds: stage -> what it took.
    """

    digest: str
    name: str
    params: dict[str, Any]
    evaluation: dict[str, Any]
    curve: list[dict[str, Any]]
    data: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)
    model: str = "llm_srec"
    seconds: dict[str, float] = field(default_factory=dict)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections -> `{"model.uniform": False, ...}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def used(params: Params) -> dict[str, Any]:
    """The parameters that shaped a run, flat: without where it is registered, and without what was not read.

    All of params.yaml is among the run's files.
    """
    flat = flatten(params.model_dump())
    idle = {
        "registry.": True,
        "checks.": True,
        "export.": True,
        "tune.": True,
        "cross.": True,
        "sample.": params.data.source != "sample",
        "data.dir": params.data.source != "files",
        "data.revision": params.data.source != "hub",
        "backbone.embedded.": params.backbone.model != "embedded",
        "backbone.revision": params.backbone.revision is None,
    }
    left_out = tuple(prefix for prefix, unread in idle.items() if unread)
    return {key: value for key, value in flat.items() if not key.startswith(left_out)}


def metrics(evaluation: dict[str, Any], of: str = "llm_srec") -> dict[str, float]:
    """evaluation.json -> `test/uni99/ndcg_10`, `test/full/ndcg_10/cold`, `user_vectors/distance`, the headline first.

    The names are those of the model `of`; those of other models begin with the model's. A slice comes last. Few enough
    to be compared side by side: slices by NDCG@10, other models by what counts at 10 on test; evaluation.json is among
    the run's files with all of them.
    """
    named: dict[str, float] = {}
    for key, value in flatten(evaluation).items():
        model, *parts = key.split(".")
        if len(parts) == 4:
            split, protocol, group, metric = parts
            parts = [split, protocol, metric, group]
        own = model == of
        if parts[-1] == "distance_users" or (len(parts) == 4 and not (own and parts[2] == "ndcg_10")):
            continue
        if own or (parts[0] == "test" and parts[-1].endswith("_10")):
            named["/".join(parts if own else [model, *parts])] = float(value)
    return dict(sorted(named.items(), key=lambda entry: not entry[0].startswith("test/uni99/ndcg_10")))


def searched(evaluation: dict[str, Any], parity: dict[str, Any]) -> dict[str, Any]:
    """evaluation.json with what the bundle's indexes find, of its parity.json, where it has any."""
    recalls = {tower: {"recall_10": of["recall_10"]} for tower, of in parity.get("index", {}).items()}
    return evaluation | {"llm_srec": evaluation["llm_srec"] | {"index": recalls}} if recalls else evaluation


def check(entry: dict[str, Any]) -> dict[str, float]:
    """A check's entry in the curve -> `check/valid/uni99/ndcg_10`, `train/loss`, `train/epoch`, ...

    The validation metrics have a name of their own here, as they are of a sample of the users
    (`evaluate.validation_users`).
    """
    values = {key: float(value) for key, value in entry.items() if key not in ("step", "users")}
    return {f"check/{key}" if key.startswith("valid/") else f"train/{key}": value for key, value in values.items()}


def title(params: Params, experiment: str | None, committed: dict[str, Any]) -> str:
    """A run's name: first what sets it apart, as lists cut long names, then data, backbone and DVC's name for it.

    Args:
        params: of the run.
        experiment: DVC's name, if it has one.
        committed: params.yaml of the commit that the run is based on, flat; `{}` where there is none.

    Returns:
        Such as `no uniformity, train.seed 1 on Sample, embedded (tubby-gobs)`. What leaves the paper's objective is
        named even where it is committed.
    """
    model = params.model
    marks = {
        "no distillation": not model.distill,
        "no uniformity": not model.uniform,
        "contrastive": model.distill and model.distill_loss == "contrastive",
        "user representation": model.user_representation,
        "shuffled training": params.split.shuffle_train,
    }
    others = [
        f"{key} {value}"
        for key, value in used(params).items()
        if value != committed.get(key, value) and key not in (*MARKED, *NAMED_ANYWAY)
    ]
    apart = [*(mark for mark, holds in marks.items() if holds), *others]
    if len(apart) > MOST_NAMED:
        apart = [*apart[:MOST_NAMED], f"{len(apart) - MOST_NAMED} more"]
    backbone = params.backbone.model.rstrip("/").rpartition("/")[2]
    where = f"{params.data.category}, {backbone}" + (f" ({experiment})" if experiment else "")
    return f"{', '.join(apart)} on {where}" if apart else where


def origin(params: Params, experiment: str | None, baseline: str | None) -> dict[str, str]:
    """Tags of where a run's data, backbone and first weights are from, of its DVC experiment and of that one's base."""
    tags = {
        "data.source": params.data.source,
        "data.category": params.data.category,
        "backbone": params.backbone.model,
        "started_from": "" if params.train.start in FRESH else params.train.start,
        "dvc.experiment": experiment,
        "dvc.baseline": baseline,
    }
    return {key: value for key, value in tags.items() if value}


def paired(digests: dict[str, str]) -> dict[str, str]:
    """Tags by which runs of the same users and candidates are found, of `comparison.json`'s `paired_by`."""
    return {f"paired.{file}": digest for file, digest in digests.items()}


def evidence(reports: Path) -> dict[str, str]:
    """The run's tags that a promotion goes by: whether the data passed the checks, and the digest of the reports."""
    return {"checks.passed": str(read_json(reports / "checks.json")["passed"]).lower(), SEALED: seal(reports)}


def seal(folder: Path) -> str:
    """One digest of the reports in a folder, and of the evidence that not every version has."""
    there = [name for name in (*EVIDENCE, ADDED) if name in REPORTS or (folder / name).is_file()]
    files = {name: sha256(folder / name) for name in there}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
