"""From `llmsrec tune` to params.yaml, MLflow and the stage's files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from llmsrec import cli
from llmsrec import params as parameters
from llmsrec.tuning import command, report, space, study
from llmsrec.tuning.trials import trainer


@pytest.fixture
def tuned(place: Any, capsys: Any) -> Any:
    """A place whose study is done, and what the worker printed."""
    assert cli.main(["tune"]) == 0
    return place, capsys.readouterr().out


def test_the_winner_is_shown_written_with_its_comments_and_trains(tuned: Any, capsys: Any) -> None:
    place, shown = tuned
    path = place.folder / "params.yaml"
    before, best = path.read_text(), max(study.find(parameters.load(path), place.folder).trials, key=lambda t: t.value)
    assert shown.splitlines()[-5].split()[:3] == [str(best.number), "complete", f"{best.value:.4f}"]

    assert cli.main(["tune", "apply"]) == 1
    assert "nobody is there to agree and nothing was written" in capsys.readouterr().err
    assert path.read_text() == before
    assert cli.main(["tune", "apply", "--yes"]) == 0
    difference = capsys.readouterr().out
    after = path.read_text()
    old, new = before.splitlines(), after.splitlines()
    changed = [(was, now) for was, now in zip(old, new, strict=True) if was != now]
    assert changed, "the winner's d' is not the one that the file had"
    for was, now in changed:
        assert f"-{was}\n+{now}" in difference
        assert was.partition("#")[2] == now.partition("#")[2]
    written = parameters.load(path)
    assert {key: _value(written, key) for key in best.params} == space.values(best.params)

    assert cli.main(["tune", "apply", "--yes"]) == 0
    assert capsys.readouterr().out == "params.yaml has the best trial's values already\n"
    assert path.read_text() == after


def _value(params: Any, key: str) -> Any:
    for part in key.split("."):
        params = getattr(params, part)
    return params


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"train__epochs": 1}, "was begun: train.epochs was 2, now 1. Its winner may not win"),
        ({"tune__fidelity": "full"}, "tune.fidelity was heads, now full"),
        ({"tune__study": "another"}, "there is no study 'another' at sqlite:///"),
    ],
)
def test_a_winner_of_other_parameters_is_not_written(tuned: Any, edit: dict[str, Any], said: str, capsys: Any) -> None:
    place, _ = tuned
    place.edit(**edit)
    before = (place.folder / "params.yaml").read_text()
    assert cli.main(["tune", "apply", "--yes"]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert (place.folder / "params.yaml").read_text() == before


def test_trials_that_do_not_begin_from_the_version_of_train_start_say_so(
    place: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(place.folder)
    for version, said in (("llm-srec/3", 1), ("scratch", 0), ("heads", 0)):
        place.edit(train__start=version, tune__fidelity="full")
        trainer(parameters.load(Path("params.yaml")), Path("cache"))
        out = capsys.readouterr().out
        assert out.count("train.start is llm-srec/3, but trials begin from scratch") == said


def test_each_trial_is_a_nested_run_once(tuned: Any) -> None:
    place, _ = tuned
    params = parameters.load(place.folder / "params.yaml")
    actual = study.find(params, place.folder)
    files = report.write(actual, place.folder / "reports/tuning")
    command.log(actual, params, place.folder, files)
    client = MlflowClient(f"sqlite:///{place.folder}/mlruns/mlflow.db")
    place_id = client.get_experiment_by_name("llm-srec-tuning").experiment_id
    runs = client.search_runs([place_id], order_by=["attributes.start_time"])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.run_name for run in parents] == ["study llm-srec"]
    (parent,) = parents
    trials = sorted((run for run in runs if run is not parent), key=lambda run: int(run.data.tags["llmsrec.trial"]))
    assert [run.data.tags["mlflow.parentRunId"] for run in trials] == [parent.info.run_id] * 3
    for run, trial in zip(trials, actual.trials, strict=True):
        assert run.info.status == "FINISHED"
        assert run.info.run_name.startswith(f"trial {trial.number}: model.d_prime {trial.params['model.d_prime']}, ")
        assert run.data.metrics["valid/uni99/ndcg_10"] == trial.value
        assert run.data.params["model.d_prime"] == str(trial.params["model.d_prime"])
        assert run.data.params["train.epochs"] == "2"
        points = client.get_metric_history(run.info.run_id, "check/valid/uni99/ndcg_10")
        assert {point.step: point.value for point in points} == trial.intermediate_values
    assert parent.data.metrics["valid/uni99/ndcg_10"] == actual.best_value
    assert parent.data.params["tune.fidelity"] == "heads"
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {path.name for path in files}


def test_the_report_holds_every_trial_and_the_figures_are_pictures(tuned: Any, tmp_path: Path) -> None:
    place, _ = tuned
    actual = study.find(parameters.load(place.folder / "params.yaml"), place.folder)
    paths = report.write(actual, tmp_path / "out")
    content = json.loads(paths[0].read_text())
    assert [trial["number"] for trial in content["trials"]] == [0, 1, 2]
    assert content["best"]["value"] == actual.best_value
    assert (content["fidelity"], content["objective"], content["validation_users"]) == (
        "heads",
        "valid/uni99/ndcg_10",
        1000,
    )
    assert content["importance"] == {}, "three trials tell nothing about importance"
    assert [path.read_bytes()[:4] for path in paths[1:]] == [b"\x89PNG"] * 2
    again = [path.read_bytes() for path in report.write(actual, tmp_path / "again")]
    assert again == [path.read_bytes() for path in paths]


def test_a_remembered_file_that_is_damaged_is_computed_again(tuned: Any, capsys: Any) -> None:
    place, _ = tuned
    (kept,) = place.folder.glob(".cache/tune/*.safetensors")
    whole = {name: tensor.clone() for name, tensor in load_file(kept).items()}  # not mapped from the file
    kept.write_bytes(kept.read_bytes()[:-100])
    place.edit(tune__trials=4)
    assert cli.main(["tune"]) == 0
    assert "is damaged" in capsys.readouterr().out
    again = load_file(kept)
    assert again.keys() == whole.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=0)


def test_a_full_trial_is_the_pipelines_training_and_trains_a_tuned_teacher(place: Any, capsys: Any) -> None:
    tuned = [{"key": "sasrec.dim", "choices": [8, 64]}, {"key": "model.d_prime", "choices": [8, 128]}]
    place.edit(tune__fidelity="full", tune__space=tuned, tune__trials=2, sasrec__epochs=1, train__epochs=1)
    assert cli.main(["tune"]) == 0
    out = capsys.readouterr().out
    assert out.count("sasrec epoch 1/1") == 2
    params = parameters.load(place.folder / "params.yaml")
    assert study.find(params, place.folder).trials[0].params == {"sasrec.dim": 64, "model.d_prime": 128}


def test_a_checkpoint_with_other_prompts_is_refused(place: Any, capsys: Any) -> None:
    place.edit(model__history=3)
    assert cli.main(["tune"]) == 1
    assert (
        "params.yaml has model.history 3, but models/llm_srec was trained with 4; run `dvc" in capsys.readouterr().err
    )
    assert not (place.folder / ".cache").exists()


def test_without_data_or_study_there_is_one_line(place: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert cli.main(["tune", "show"]) == 1
    assert "there is no study 'llm-srec' at sqlite:///" in capsys.readouterr().err
    assert not (place.folder / "mlruns/tune.db").exists()
    (place.folder / "models/llm_srec/model.safetensors").unlink()
    (place.folder / "models/llm_srec/config.json").unlink()
    (place.folder / "models/llm_srec").rmdir()
    assert cli.main(["tune"]) == 1
    assert "models/llm_srec is not there, so there is nothing to tune on" in capsys.readouterr().err


@pytest.mark.parametrize("part", [[], ["show"], ["apply"]])
def test_help_shows_an_example(part: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["tune", *part, "--help"])
    assert " ".join(["llmsrec tune", *part]) in capsys.readouterr().out.partition("example:")[2]
