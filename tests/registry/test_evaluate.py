"""`llmsrec evaluate` on a real registry, against ranking each user by the answers that the version would give."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from mlflow import MlflowClient

from llmsrec import cli
from llmsrec.evaluation.metrics import per_user
from llmsrec.scoring.held_out import MISS
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import Event, Request
from tests.registry.made import write_params


@pytest.fixture(scope="module")
def week(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like data/: the tiny model's data a week on, in which B30 has become B31, and negatives of 5 items."""
    folder = tmp_path_factory.mktemp("week") / "data"
    shutil.copytree(tiny.folder / "data/filtered", folder / "filtered")
    items = pl.read_parquet(folder / "filtered/items.parquet")
    renamed = items.with_columns(pl.col("parent_asin").replace("B30", "B31"))
    renamed.write_parquet(folder / "filtered/items.parquet")
    events = pl.read_parquet(folder / "filtered/interactions.parquet")
    rows = [
        {
            "user_id": user,
            "split": split,
            "item_id": items[-1],
            "negatives": [item for item in range(1, 31) if item not in items][:5],
        }
        for split in ("valid", "test")
        for user, items in events.group_by("user_id", maintain_order=True).agg("item_id").rows()
    ]
    (folder / "split").mkdir()
    pl.DataFrame(rows).write_parquet(folder / "split/candidates.parquet")
    return folder


@pytest.fixture
def root(registry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose model is llm-srec, with the registry of these tests and no data."""
    write_params(tmp_path)
    path = tmp_path / "params.yaml"
    path.write_text(
        path.read_text().replace("model: gated", "model: llm-srec").replace("bootstrap: 1000", "bootstrap: 100")
    )
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    return tmp_path


def plainly(recommender: Recommender, user: dict[str, Any], tower: str) -> int:
    """The target's place in the whole list that the user would be answered with."""
    events = [Event(parent_asin=a, timestamp=t) for a, t in zip(user["history"], user["timestamps"], strict=True)]
    left = 30 - len({event.parent_asin for event in events} - {"B31"})
    (answer,) = recommender.recommend([Request(history=events, k=left, tower=tower)])
    answered = [item.parent_asin for item in answer.items]
    return answered.index(user["target"]) if user["target"] in answered else MISS


def test_figures_are_those_of_the_answers_and_go_to_the_versions_run(
    root: Path, registry: Any, week: Path, tiny: Any, capsys: Any
) -> None:
    from llmsrec.evaluation import test_users

    assert cli.main(["evaluate", "llm-srec@candidate", "--on", str(week)]) == 0
    said = capsys.readouterr().out
    users = test_users.of_data(week / "filtered", 1000, 0).to_dicts()
    unknown = sum(user["target"] == "B31" for user in users)
    skipped = sum("B31" in user["history"] for user in users)
    assert unknown and skipped
    assert f"{unknown} of 40 last items are unknown to it: each is a miss" in said
    assert f"{skipped} of {sum(len(user['history']) for user in users)} events" in said
    assert "other data than it was trained on" in said and "among 5 sampled items" in said
    client = MlflowClient(registry.uri)
    run = client.get_run(registry.run_id)
    (data,) = {key.split("/")[1] for key in run.data.metrics if key.startswith("on/")}
    assert run.data.tags[f"evaluated.{data}"] == str(week)
    recommender = Recommender.load(tiny.bundle)
    for tower in ("llm", "cf", "teacher"):
        ranks = np.array([plainly(recommender, user, tower) for user in users])
        for metric in ("ndcg_10", "hr_10"):
            expected = per_user(ranks, metric).mean()
            actual = run.data.metrics[f"on/{data}/full/{metric}/tower_{tower}"]
            assert actual == pytest.approx(expected, abs=0.02), "near-equal scores may change places"
            assert run.data.metrics[f"on/{data}/uni99/{metric}/tower_{tower}"] >= actual
    assert run.data.metrics[f"on/{data}/unknown_targets"] == unknown
    kept = json.loads(
        Path(client.download_artifacts(registry.run_id, f"evaluations/{data}.json", str(root))).read_text()
    )
    assert kept["counts"]["users"] == 40 and set(kept["towers"]["cf"]["uni99"]["ndcg_10"]) == {"mean", "low", "high"}
    assert cli.main(["evaluate", "1", "--on", str(week / "filtered")]) == 0  # the same users: the same names
    assert {key.split("/")[1] for key in client.get_run(registry.run_id).data.metrics if key.startswith("on/")} == {
        data
    }


def test_the_workspaces_data_are_the_default_and_uni99_needs_candidates(root: Path, tiny: Any, capsys: Any) -> None:
    shutil.copytree(tiny.folder / "data/filtered", root / "data/filtered")
    assert cli.main(["evaluate", "models:/llm-srec/1"]) == 0
    said = capsys.readouterr().out
    assert "these are its own test data" in said and "uni99 is left out" in said and "0 of 40 last items" in said


def test_bad_input_is_one_line(root: Path, week: Path, tmp_path: Path, capsys: Any) -> None:
    for name in ("empty", "text/filtered", "columns", "none", "other/filtered", "other/split"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("interactions", "items"):
        (tmp_path / f"text/filtered/{name}.parquet").write_text("hello")
        shutil.copy(week / f"filtered/{name}.parquet", tmp_path / "other/filtered")
        shutil.copy(week / f"filtered/{name}.parquet", tmp_path / "none")
    pl.DataFrame({"user": [1]}).write_parquet(tmp_path / "columns/interactions.parquet")
    pl.read_parquet(week / "filtered/interactions.parquet").clear().write_parquet(
        tmp_path / "none/interactions.parquet"
    )
    stored = pl.read_parquet(week / "split/candidates.parquet")
    shuffled = stored.with_columns(pl.col("item_id").shift(1, fill_value=1))
    for arguments, said in (
        (["9"], "llm-srec has no version or alias '9'; versions: 1; aliases: candidate (1)"),
        (["nobody/1"], "nobody has no versions yet"),
        (["models:/llm-srec"], "names no version"),
        (["1", "--on", "nowhere"], "--on nowhere is not a folder"),
        (["1"], "data is not a folder"),
        (["1", "--on", "empty"], "interactions.parquet is not there; it takes a folder like"),
        (["1", "--on", "text"], "cannot be read as parquet"),
        (["1", "--on", "columns"], "has no column user_id, item_id, timestamp"),
        (["1", "--on", "none"], "holds no events"),
        (["1", "--on", "other"], "is not of the same data as"),
    ):
        for wrong in (shuffled, stored.head(3), stored.with_columns(pl.col("negatives").list.head(0))):
            wrong.write_parquet(tmp_path / "other/split/candidates.parquet")
            more = [
                str(tmp_path / part) if part in ("empty", "text", "columns", "none", "other") else part
                for part in arguments
            ]
            assert cli.main(["evaluate", *more]) == 1, arguments
            error = capsys.readouterr().err
            assert said in error and error.count("\n") == 1, (arguments, error)
            if "other" not in arguments:
                break


def test_a_version_without_a_run_is_refused(root: Path, registry: Any, week: Path, capsys: Any) -> None:
    client = MlflowClient(registry.uri)
    client.create_registered_model("runless")
    client.create_model_version("runless", str(registry.bundle))
    assert cli.main(["evaluate", "runless/1", "--on", str(week)]) == 1
    assert "runless version 1 has no run to keep the figures with" in capsys.readouterr().err
