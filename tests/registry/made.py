"""Hand-made outs of the stages that a registration reads, with figures that a test can choose."""

from pathlib import Path
from typing import Any

import numpy as np

from llmsrec.evaluation import report
from llmsrec.files import write_json


def write_outs(folder: Path, tiny: Any, better: int = 2, order: bool = True) -> None:
    """What the stages before `register` leave of the tiny model: reports of 40 users, manifests, metrics, a curve.

    Args:
        better: how many places LLM-SRec's ranks are above SASRec's.
        order: whether shuffling the histories costs LLM-SRec anything.
    """
    random, users = np.random.default_rng(0), 40
    teacher = {protocol: random.integers(0, 12, users).astype(np.int32) for protocol in ("full", "uni99")}
    ours = {protocol: np.maximum(ranks - better, 0).astype(np.int32) for protocol, ranks in teacher.items()}
    lost = {protocol: ranks + 15 for protocol, ranks in ours.items()} if order else ours
    never = {protocol: np.full(users, 99, dtype=np.int32) for protocol in teacher}
    ranks = {
        "llm_srec": {"valid": ours, "test": ours, "test_shuffled": lost},
        "sasrec": {"valid": teacher, "test": teacher, "test_shuffled": teacher},
        "popularity": {"valid": never, "test": never, "test_shuffled": never},
    }
    slices = {"warm": np.arange(users) % 3 == 0, "cold": np.zeros(users, dtype=bool)}
    slices |= {"transition": np.arange(users) % 2 == 0, "non_transition": np.arange(users) % 2 == 1}
    vectors = {
        "test": random.normal(size=(users, 4)),
        "cf": random.normal(size=(users, 4)),
        "items": random.normal(size=(31, 4)),
    }
    none = np.zeros(users + 1, dtype=np.int64), np.zeros(0, dtype=np.int64)
    targets, negatives = random.integers(1, 31, users), random.integers(1, 31, (users, 9))
    comparison = report.comparison(ranks, slices, resamples=200, seed=5) | {
        "data": tiny.config["data"],
        "paired_by": {"interactions.parquet": "1" * 64, "candidates.parquet": "2" * 64},
        "towers": report.towers(vectors, targets, *none, negatives, resamples=200, seed=5),
    }
    checks = {
        "passed": True,
        "data": {"raw": "0" * 64} | tiny.config["data"],
        "suites": [{"name": "items", "success": True, "expectations": [{"rule": "ids", "success": True}]}],
    }
    manifests = {
        "raw": {"reviews": 300, "items": 31},
        "filtered": {"core": 5, "steps": [{"step": "5-core round 1", "users": users, "items": 30, "events": 252}]},
        "split": {"events": {"train": 172, "valid": users, "test": users}},
    }
    report.write_ranks(folder / "reports/ranks.parquet", ranks)
    report.write_slices(folder / "reports/slices.parquet", slices)
    write_json(folder / "reports/comparison.json", comparison)
    write_json(folder / "reports/checks.json", checks)
    write_json(folder / "metrics/evaluation.json", report.evaluation(ranks, slices, {}))
    write_json(folder / "models/llm_srec/curve.json", [{"step": 3, "loss": 1.0, "valid/uni99/ndcg_10": 0.25}])
    for part, manifest in manifests.items():
        write_json(folder / "data" / part / "manifest.json", manifest)
    (folder / "reports/plots").mkdir(exist_ok=True)
    (folder / "reports/plots/training.png").write_bytes(b"png")
