"""What MLflow is told about a training: names and values, before any of them is logged."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmsrec.params import Params


@dataclass(frozen=True)
class Record:
    """What a run says about a training and its evaluation.

    Attributes:
        digest: equal where all inputs were equal (Contract, "Run identity"); one run has it.
        name: what people see.
        params: params.yaml, nested.
        evaluation: metrics/evaluation.json.
        curve: an entry for each check during training, with its `step`.
        data: name of a part of the data -> its digest.
        tags: more to search by.
        files: folder among the run's artifacts -> files and folders to put there.
    """

    digest: str
    name: str
    params: dict[str, Any]
    evaluation: dict[str, Any]
    curve: list[dict[str, Any]]
    data: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections -> `{"model.uniform": False, ...}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def metrics(evaluation: dict[str, Any]) -> dict[str, float]:
    """evaluation.json -> `test/uni99/ndcg_10`, `test/full/ndcg_10/cold`, `user_vectors/distance`.

    The names are LLM-SRec's own; those of other models begin with the model's. A slice comes last.
    """
    named: dict[str, float] = {}
    for key, value in flatten(evaluation).items():
        model, *parts = key.split(".")
        if len(parts) == 4:
            split, protocol, group, metric = parts
            parts = [split, protocol, metric, group]
        named["/".join(parts if model == "llm_srec" else [model, *parts])] = float(value)
    return named


def check(entry: dict[str, Any]) -> dict[str, float]:
    """A check's entry in the curve -> `check/valid/uni99/ndcg_10`, `train/loss`, `train/epoch`, ...

    The validation metrics have a name of their own here, as they are of a sample of the users.
    """
    values = {key: float(value) for key, value in entry.items() if key != "step"}
    return {
        f"check/{key}" if key.startswith("valid/") or key == "users" else f"train/{key}": v for key, v in values.items()
    }


def title(params: Params, experiment: str | None) -> str:
    """A run's name: what it was trained on and with, where it leaves the paper's objective, and DVC's name for it."""
    model = params.model
    marks = {
        "no distillation": not model.distill,
        "no uniformity": not model.uniform,
        "contrastive": model.distill and model.distill_loss == "contrastive",
        "user representation": model.user_representation,
        "shuffled training": params.split.shuffle_train,
        "LoRA": params.backbone.lora_rank > 0,
    }
    backbone = params.backbone.model.rstrip("/").rpartition("/")[2]
    parts = [params.data.category, backbone, f"d' {model.d_prime}", *(mark for mark, holds in marks.items() if holds)]
    return ", ".join(parts) + (f" ({experiment})" if experiment else "")


def headline(evaluation: dict[str, Any]) -> str:
    """One line for a version's description: test NDCG@10 of the model and of what it is compared with."""
    lines = []
    for protocol in ("uni99", "full"):
        scores = {model: splits["test"][protocol]["ndcg_10"] for model, splits in evaluation.items()}
        others = ", ".join(f"{model} {score:.4f}" for model, score in scores.items() if model != "llm_srec")
        lines.append(f"{protocol} {scores['llm_srec']:.4f} ({others})")
    return "Test NDCG@10: " + "; ".join(lines)
