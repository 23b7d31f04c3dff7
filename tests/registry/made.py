"""Hand-made outs of the stages that a registration reads, with figures that a test can choose; versions of them."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from mlflow import MlflowClient

from llmsrec.evaluation import report, test_users, towers
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.files import read_json, write_json
from llmsrec.promotion import facts
from llmsrec.registry import card, record, tracking
from llmsrec.serving.bundle import seal
from tests.registered import copied

MEASURED = facts.Smoke(None, 10, 1.0, {"cf": {"p50": 1.0, "p99": 2.0}, "llm": {"p50": 1.0, "p99": 2.0}}, 500.0)
PARAMS = Path(__file__).parents[2] / "params.yaml"


def test_users_of(new: int, users: int = 40) -> pl.DataFrame:
    """Hand-made test users over the tiny catalogue B1..B30, each `new`-th of whom took an item that it has not, B31."""
    random = np.random.default_rng(new)
    rows = []
    for user in range(1, users + 1):
        *history, target = (f"B{item}" for item in random.permutation(30)[:6] + 1)
        took_new = new and user % new == 0
        rows.append(
            {
                "user_id": user,
                "history": [*history[:-1], "B32"] if took_new else history,
                "timestamps": [1_500_000_000_000 + day * 86_400_000 for day in range(len(history))],
                "target": "B31" if took_new else target,
            }
        )
    return pl.DataFrame(rows, schema=test_users.SCHEMA)


def write_outs(
    folder: Path, tiny: Any, better: int = 2, order: bool = True, new: int = 0, full: np.ndarray | None = None
) -> None:
    """What the stages before `register` leave of the tiny model: reports of 40 users, manifests, metrics, a curve.

    Args:
        better: how many places LLM-SRec's ranks are above SASRec's.
        order: whether shuffling the histories costs LLM-SRec anything.
        new: above 0 for data that have grown: other digests, and test users with new items (`test_users_of`).
        full: `[40]` LLM-SRec's ranks among all items; drawn if None.
    """
    random, users = np.random.default_rng(0), 40
    teacher = {protocol: random.integers(0, 12, users).astype(np.int32) for protocol in ("full", "uni99")}
    ours = {protocol: np.maximum(ranks - better, 0).astype(np.int32) for protocol, ranks in teacher.items()}
    if full is not None:
        ours["full"], teacher["full"] = full, full + better
    lost = {protocol: ranks + 15 for protocol, ranks in ours.items()} if order else ours
    never = {protocol: np.full(users, 99, dtype=np.int32) for protocol in teacher}
    ranks = {
        "llm_srec": {"valid": ours, "test": ours, "test_shuffled": lost},
        "sasrec": {"valid": teacher, "test": teacher, "test_shuffled": teacher},
        "popularity": {"valid": never, "test": never, "test_shuffled": never},
    }
    slices = {"warm": np.arange(users) % 3 == 0, "cold": np.zeros(users, dtype=bool)}
    slices |= {"transition": np.arange(users) % 2 == 0, "non_transition": np.arange(users) % 2 == 1}
    of_towers = {"llm": ours, "cf": {protocol: ranks + 30 for protocol, ranks in teacher.items()}, "teacher": teacher}
    comparison = report.comparison(ranks, slices, Bootstrap(200, 5)) | {
        "negatives": 9,
        "data": tiny.config["data"],
        "paired_by": {"interactions.parquet": f"{1 + new}" * 64, "candidates.parquet": f"{2 + new}" * 64},
        "towers": towers.compare(of_towers, random.random(users), Bootstrap(200, 5)),
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
    of_cf = {"test": of_towers["cf"], "test_shuffled": of_towers["cf"]}
    report.write_ranks(folder / f"reports/{record.TOWER_RANKS}", {"tower_cf": of_cf})
    report.write_slices(folder / "reports/slices.parquet", slices)
    test_users_of(new).write_parquet(folder / "reports/test_users.parquet")
    write_json(folder / "reports/comparison.json", comparison)
    write_json(folder / "reports/checks.json", checks)
    write_json(folder / "metrics/evaluation.json", report.evaluation(ranks, slices, {}, {"tower_cf": of_towers["cf"]}))
    write_json(folder / "models/llm_srec/curve.json", [{"step": 3, "loss": 1.0, "valid/uni99/ndcg_10": 0.25}])
    for part, manifest in manifests.items():
        write_json(folder / "data" / part / "manifest.json", manifest)
    (folder / "reports/plots").mkdir(exist_ok=True)
    (folder / "reports/plots/training.png").write_bytes(b"png")


def with_registry(root: Path, registry: Any) -> Path:
    """A repository, made of an empty folder, that has params.yaml and a registry of its own like another's."""
    write_params(copied(registry, root))
    return root


def write_params(root: Path) -> None:
    """params.yaml of this repository for the model `gated`."""
    text = PARAMS.read_text().replace("model: llm-srec", "model: gated")
    (root / "params.yaml").write_text(text.replace("requests: 100", "requests: 10"))


def register_gated(
    client: MlflowClient,
    root: Path,
    made: Path,
    tiny: Any,
    number: int,
    better: int,
    order: bool,
    new: int = 0,
    full: np.ndarray | None = None,
) -> None:
    """Version `number` of `gated`, with all the evidence that the gate asks for.

    Args:
        made: an empty folder.
        better, order, new, full: see `write_outs`.
    """
    place = tracking.experiment(client, "llm-srec", root)
    write_outs(made, tiny, better, order, new, full)
    bundle = Path(shutil.copytree(tiny.bundle, made / "bundle"))
    write_json(bundle / "parity.json", read_json(bundle / "parity.json") | {"number": number})
    seal(bundle)
    entry = record.Record(
        digest=f"gated{number}" * 10,
        name=f"gated {number}",
        params={"train.epochs": 4},
        evaluation=read_json(made / "metrics/evaluation.json"),
        curve=[],
        tags={record.SEALED: record.seal(made / "reports")},
        files={"reports": [made / "reports" / name for name in record.EVIDENCE]},
    )
    run_id = tracking.ensure_run(client, place, entry)
    assert tracking.ensure_version(client, place, run_id, "gated", bundle, {}) == number
    card.attach(client, "gated", number, "A card.")


def quick_smoke(bundle: Path, requests: int, say: Any) -> facts.Smoke:
    """For `smoke`: what it took is not measured."""
    say("not measured")
    return MEASURED


AT_ONCE = """
import sys
from pathlib import Path
from llmsrec.promotion import aliases
root, number = Path(sys.argv[1]), int(sys.argv[2])
before, after = {"previous": None, "staging": 1}, {"previous": 1, "staging": number}
made = aliases.decide("promote", number, "staging", before, after, 2)
print("ready", flush=True)
sys.stdin.readline()
aliases.carry_out(root, "gated", {"staging": 1}, made, {}, "text")
"""


def promote_at_once(roots: dict[int, Path]) -> tuple[int, str]:
    """Two processes move `staging` from version 1, decision 1, to versions of their own: who won, what the other said.

    Args:
        roots: version -> the repository of who wants it.
    """
    both = {
        number: subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, str(root), str(number)], stdin=-1, stdout=-1, stderr=-1, text=True
        )
        for number, root in roots.items()
    }
    for one in both.values():
        assert one.stdout and one.stdout.readline() == "ready\n"
    for one in both.values():
        assert one.stdin
        one.stdin.write("go\n")
        one.stdin.flush()
    errors = {number: one.communicate(timeout=60)[1] for number, one in both.items()}
    won = [number for number, one in both.items() if one.returncode == 0]
    assert len(won) == 1, errors
    return won[0], "".join(text for number, text in errors.items() if number != won[0])
