import subprocess
from typing import Any

import pytest
from mlflow import MlflowClient

from llmsrec.errors import DataError
from llmsrec.experiments import ablation

IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@example.org")
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


def test_each_experiment_says_all_that_tells_it_from_the_others() -> None:
    found = ablation.experiments(["a", "c"], ["original", "shuffled"], [0, 7])
    assert [one.name for one in found[:4]] == [
        "table7-a-original-s0", "table7-c-original-s0", "table7-a-shuffled-s0", "table7-c-shuffled-s0"
    ]  # fmt: skip
    assert len(found) == len({tuple(one.overrides()) for one in found}) == 8
    assert found[-2].overrides() == [
        "-S", "model.distill=false", "-S", "model.uniform=false", "-S", "split.shuffle_train=true", "-S", "train.seed=7"
    ]  # fmt: skip


def test_the_table_is_of_the_experiments_runs_which_get_their_names(pair: Any) -> None:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=pair.root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    head = git("rev-parse", "HEAD")
    wanted = ablation.experiments(["b", "c"], ["original"], [0])
    for one, commit in zip(wanted, ("HEAD~1", "HEAD"), strict=True):
        git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{one.name}", commit)
    client = MlflowClient(pair.uri)
    before = client.get_run(pair.full).info.run_name
    uni99, _ = ablation.tables(pair.root, wanted)
    metric = {run: client.get_run(run).data.metrics["test/uni99/ndcg_10"] for run in (pair.full, pair.ablated)}
    levels = {row[0]: row[1].split(" ")[0] for row in uni99.rows if row[0].startswith("(")}
    assert levels == {
        "(b) without uniformity": f"{metric[pair.ablated]:.4f}",
        "(c) LLM-SRec": f"{metric[pair.full]:.4f}",
    }
    assert client.get_run(pair.full).info.run_name == f"{before} (table7-c-original-s0)"
    assert client.get_run(pair.full).data.tags["dvc.experiment"] == "table7-c-original-s0"
    assert client.get_run(pair.ablated).data.tags["dvc.experiment"] == "tubby-gobs"  # it had a name

    git(
        "update-ref",
        f"refs/exps/{head[:2]}/{head[2:]}/table7-a-original-s0",
        git(*IDENTITY, "commit-tree", "-m", "x", EMPTY_TREE),
    )
    with pytest.raises(DataError, match="table7-a-original-s0 ended before it was registered"):
        ablation.tables(pair.root, ablation.experiments(["a"], ["original"], [0]))
