from pathlib import Path

import pytest

from llmsrec import params
from llmsrec.registry.record import check, flatten, headline, metrics, title

PARAMS = params.load(Path(__file__).parents[2] / "params.yaml")


def test_flatten_keeps_params_yamls_names() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": None}, "e": False}) == {"a.b.c": 1, "a.d": None, "e": False}
    flat = flatten(PARAMS.model_dump())
    assert (flat["model.uniform"], flat["model.weights.retrieval"]) == (True, 1.0)


def test_metrics_have_the_contracts_names() -> None:
    evaluation = {
        "llm_srec": {
            "test": {"uni99": {"ndcg_10": 0.5}, "full": {"hr_20": 0.25, "cold": {"ndcg_10": 0.125}}},
            "test_shuffled": {"uni99": {"ndcg_10": 0.375}},
            "user_vectors": {"distance_users": 7},
        },
        "sasrec": {"user_vectors": {"distance": 1.5}, "valid": {"full": {"ndcg_10": 0.0625}}},
    }
    assert metrics(evaluation) == {
        "test/uni99/ndcg_10": 0.5,
        "test/full/hr_20": 0.25,
        "test/full/ndcg_10/cold": 0.125,
        "test_shuffled/uni99/ndcg_10": 0.375,
        "user_vectors/distance_users": 7.0,
        "sasrec/user_vectors/distance": 1.5,
        "sasrec/valid/full/ndcg_10": 0.0625,
    }


def test_a_check_is_kept_apart_from_the_evaluation_of_all_users() -> None:
    entry = {"step": 20, "epoch": 0.5, "users": 500, "loss": 1.5, "uniform": 0.1, "valid/uni99/ndcg_10": 0.25}
    assert check(entry) == {
        "train/epoch": 0.5,
        "check/users": 500.0,
        "train/loss": 1.5,
        "train/uniform": 0.1,
        "check/valid/uni99/ndcg_10": 0.25,
    }


@pytest.mark.parametrize(
    ("section", "change", "mark"),
    [
        ("model", {"distill": False}, "no distillation"),
        ("model", {"uniform": False}, "no uniformity"),
        ("model", {"distill_loss": "contrastive"}, "contrastive"),
        ("model", {"user_representation": True}, "user representation"),
        ("split", {"shuffle_train": True}, "shuffled training"),
        ("backbone", {"lora_rank": 8}, "LoRA"),
    ],
)
def test_a_title_says_what_is_unlike_the_paper(section: str, change: dict, mark: str) -> None:
    plain = title(PARAMS, None)
    assert plain == "Sample, embedded, d' 128"
    changed = PARAMS.model_copy(update={section: getattr(PARAMS, section).model_copy(update=change)})
    assert title(changed, "tubby-gobs") == f"{plain}, {mark} (tubby-gobs)"


def test_a_title_takes_the_last_part_of_a_backbones_name() -> None:
    backbone = PARAMS.backbone.model_copy(update={"model": "meta-llama/Llama-3.2-3B-Instruct"})
    assert title(PARAMS.model_copy(update={"backbone": backbone}), None) == "Sample, Llama-3.2-3B-Instruct, d' 128"


def test_headline() -> None:
    scores = {"uni99": {"ndcg_10": 0.5}, "full": {"ndcg_10": 0.25}}
    evaluation = {
        "llm_srec": {"test": scores},
        "sasrec": {"test": {"uni99": {"ndcg_10": 0.4}, "full": {"ndcg_10": 0.2}}},
    }
    assert headline(evaluation) == "Test NDCG@10: uni99 0.5000 (sasrec 0.4000); full 0.2500 (sasrec 0.2000)"
