"""What the runs gave, from a real registry and DVC's refs."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from llmsrec import systems
from llmsrec.errors import DataError
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.experiments.results import Measures, Results, what_of
from llmsrec.experiments.runs import SETTINGS, Run, of
from llmsrec.experiments.workspace import Workspace
from llmsrec.registry import tracking

IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@example.org")
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


ROOT = Path(__file__).resolve().parents[2]


def test_each_run_says_all_that_tells_it_from_the_others() -> None:
    committed = Workspace(ROOT).values
    runs = of(SETTINGS, ["main"], [0, 7])
    distinct = {(*run.overrides(committed), *run.targets()) for run in runs}
    assert len(runs) == len(distinct) == len({run.name for run in runs})
    run = Run("no-uniform-shuffled", "gru4rec-retrieval", 7)
    assert run.name == "paper-no-uniform-shuffled-gru4rec-retrieval-s7"
    assert {"model.uniform=false", "split.shuffle_train=true"} <= {*run.overrides(committed)[1::2]}
    assert run.targets() == ["baselines/dvc.yaml:log@gru4rec-retrieval"]
    assert Run("cross").targets() == ["cross/dvc.yaml:log@llm_srec-retrieval"]
    assert Run("cross", "collm-retrieval").registered == "metrics/cross/collm-retrieval.json"


@pytest.mark.parametrize("what", ["main", *systems.names()])
def test_seeds_are_counted_from_those_of_the_files(what: str) -> None:
    """Every system's key is one that its files have, else `dvc exp run -S` refuses it."""
    committed = Workspace(ROOT).values
    first, third = (Run("original", what, seed).values(committed) for seed in (0, 2))
    assert first.items() <= committed.items(), "seed 0 is what is committed"
    moved = {key: third[key] - first[key] for key in first if first[key] != third[key]}
    assert set(moved.values()) == {2} and len(moved) == (1 if what == "main" or systems.parse(what)[0] in LLM else 2)


LLM = ("tallrec", "llara", "collm", "a_llmrec")


def test_which_training_has_a_models_ranks() -> None:
    assert [what_of(model, "full") for model in ("llm_srec", "sasrec", "gru4rec")] == [
        "main",
        "main",
        "gru4rec-retrieval",
    ]
    assert what_of("collm", "uni19_generated") == "collm-titles"
    assert systems.parse(what_of("sasrec", "uni19"))[1] == "titles"


def test_values_are_of_the_experiments_runs_which_get_their_names(pair: Any, tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=pair.root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    head = git("rev-parse", "HEAD")
    ours, ablated, cut = Run("original"), Run("no-uniform"), Run("retrieval-only")
    empty = git(*IDENTITY, "commit-tree", "-m", "x", EMPTY_TREE)
    for run, commit in ((ours, "HEAD"), (ablated, "HEAD~1"), (cut, empty)):
        git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{run.name}", commit)
    with tracking.existing(pair.root, "") as client:
        before = client.get_run(pair.full).info.run_name
        results = Results(client, Workspace(pair.root), tmp_path, [0], Measures(Bootstrap(50, 0), 99))
        for run, run_id in ((ours, pair.full), (ablated, pair.ablated)):
            mean = results.values(run.setting, "llm_srec", "test", "uni99", "ndcg_10").mean()
            assert mean == pytest.approx(client.get_run(run_id).data.metrics["test/uni99/ndcg_10"])
        assert client.get_run(pair.full).info.run_name == f"{before} ({ours.name})"
        assert client.get_run(pair.ablated).data.tags["dvc.experiment"] == "tubby-gobs"  # it had a name
        with pytest.raises(DataError, match=f"{ours.name} keeps no ranks of tower_llm; `dvc exp remove {ours.name}`"):
            results.values("original", "tower_llm", "test", "full", "ndcg_10")
        with pytest.raises(DataError, match=f"{cut.name} ended before it was registered"):
            results.side(cut)
        with pytest.raises(DataError, match="paper-shuffled-main-s0 is not there"):
            results.side(Run("shuffled"))
