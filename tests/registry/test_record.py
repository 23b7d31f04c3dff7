from pathlib import Path
from typing import Any

import pytest

from llmsrec import params
from llmsrec.registry import record

PARAMS = params.load(Path(__file__).parents[2] / "params.yaml")


def test_flatten_keeps_params_yamls_names() -> None:
    assert record.flatten({"a": {"b": {"c": 1}, "d": None}, "e": False}) == {"a.b.c": 1, "a.d": None, "e": False}
    flat = record.flatten(PARAMS.model_dump())
    assert (flat["model.uniform"], flat["model.weights.retrieval"]) == (True, 1.0)


def test_used_leaves_out_what_no_stage_of_this_run_reads() -> None:
    actual = record.used(PARAMS)
    assert (actual["model.uniform"], actual["sample.users"], actual["train.seed"]) == (True, 2000, 0)
    assert not [key for key in actual if key.startswith(("registry.", "export.", "data.dir", "data.revision"))]
    assert {"backbone.embedded.layers"} <= actual.keys() and "backbone.revision" not in actual

    hub = change(change(PARAMS, "backbone", model="owner/name", revision="0" * 40), "data", source="hub")
    actual = record.used(hub)
    assert {"data.revision", "backbone.revision"} <= actual.keys()
    assert not [key for key in actual if key.startswith(("sample.", "backbone.embedded.", "data.dir"))]


def test_metrics_have_the_contracts_names_and_are_few() -> None:
    evaluation = {
        "llm_srec": {
            "test": {
                "full": {"hr_20": 0.25, "cold": {"ndcg_10": 0.125, "hr_10": 0.375}},
                "uni99": {"ndcg_10": 0.5},
            },
            "test_shuffled": {"uni99": {"ndcg_10": 0.375}},
            "user_vectors": {"distance_users": 7, "distance": 0.75},
        },
        "sasrec": {
            "test": {"uni99": {"ndcg_10": 0.0625, "ndcg_20": 0.5, "cold": {"ndcg_10": 0.5}}},
            "user_vectors": {"distance": 1.5},
            "valid": {"full": {"ndcg_10": 0.0625}},
        },
    }
    actual = record.metrics(evaluation)
    assert actual == {
        "test/uni99/ndcg_10": 0.5,
        "test/full/hr_20": 0.25,
        "test/full/ndcg_10/cold": 0.125,
        "test_shuffled/uni99/ndcg_10": 0.375,
        "user_vectors/distance": 0.75,
        "sasrec/test/uni99/ndcg_10": 0.0625,
    }
    assert next(iter(actual)) == "test/uni99/ndcg_10"  # what MLflow's plots show first


def test_a_check_is_kept_apart_from_the_evaluation_of_all_users() -> None:
    entry = {"step": 20, "epoch": 0.5, "users": 500, "loss": 1.5, "uniform": 0.1, "valid/uni99/ndcg_10": 0.25}
    assert record.check(entry) == {
        "train/epoch": 0.5,
        "train/loss": 1.5,
        "train/uniform": 0.1,
        "check/valid/uni99/ndcg_10": 0.25,
    }


def change(params: Any, section: str, **values: Any) -> Any:
    return params.model_copy(update={section: getattr(params, section).model_copy(update=values)})


@pytest.mark.parametrize(
    ("section", "changed", "mark"),
    [
        ("model", {"distill": False}, "no distillation"),
        ("model", {"distill": False, "uniform": False}, "no distillation, no uniformity"),
        ("model", {"distill_loss": "contrastive"}, "contrastive"),
        ("model", {"distill": False, "distill_loss": "contrastive"}, "no distillation"),
        ("model", {"user_representation": True}, "user representation"),
        ("split", {"shuffle_train": True}, "shuffled training"),
        ("train", {"seed": 3, "lr": 0.01}, "train.lr 0.01, train.seed 3"),
        ("backbone", {"lora_rank": 8}, "backbone.lora_rank 8"),
        ("model", {"history": 5, "distill": False}, "no distillation, model.history 5"),
    ],
)
def test_a_title_says_first_what_sets_a_run_apart(section: str, changed: dict, mark: str) -> None:
    committed = record.flatten(PARAMS.model_dump())
    plain = record.title(PARAMS, None, committed)
    assert plain == "Sample, embedded"
    assert (
        record.title(change(PARAMS, section, **changed), "tubby-gobs", committed) == f"{mark} on {plain} (tubby-gobs)"
    )


def test_a_title_with_many_changes_or_no_commit() -> None:
    committed = record.flatten(PARAMS.model_dump())
    many = change(PARAMS, "sasrec", dim=8, blocks=1, heads=2, dropout=0.0, epochs=9, lr=0.5, seed=9)
    assert record.title(many, None, committed) == (
        "sasrec.lr 0.5, sasrec.epochs 9, sasrec.seed 9, sasrec.dim 8, sasrec.blocks 1, 2 more on Sample, embedded"
    )
    assert record.title(many, None, {}) == "Sample, embedded"
    quiet = change(PARAMS, "registry", alias="other")
    assert record.title(quiet, None, committed) == "Sample, embedded"


def test_a_title_takes_the_last_part_of_a_backbones_name() -> None:
    llama = change(PARAMS, "backbone", model="meta-llama/Llama-3.2-3B-Instruct")
    assert record.title(llama, None, {}) == "Sample, Llama-3.2-3B-Instruct"
