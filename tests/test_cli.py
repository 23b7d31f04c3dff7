import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides

from llmsrec import cli, params, presets
from llmsrec.experiments import summary

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_ended_is_no_traceback(unbuffered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    command = [sys.executable, "-c", "import sys; from llmsrec.cli import main; sys.exit(main())", "preset", "warm"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 1)


def test_recommend_from_a_bundle_as_table_and_as_json(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["recommend", "--bundle", str(tiny.bundle), "--tower", "cf", "--k", "3"]
    history = ["--history", "B2@1391040000000", "X9@631152000000", "B1@1391126400000"]
    assert cli.main([*command, *history, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (len(answer["items"]), answer["used"], answer["unknown"], answer["fallback"]) == (3, 2, ["X9"], None)

    assert cli.main([*command, *history]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines[:3]] == [item["parent_asin"] for item in answer["items"]]
    assert lines[0].endswith(answer["items"][0]["title"])
    assert lines[3:] == ["unknown items: X9"]


def test_what_a_user_wishes_is_in_the_request(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "recommend",
        "--bundle",
        str(tiny.bundle),
        "--tower",
        "cf",
        "--history",
        "B2@2014-01-30",
        "B4@1391126400000",
    ]
    wishes = [
        "--category",
        "Shelf 1",
        "Shelf 2",
        "--store",
        "Shop 2",
        "--with-history",
        "--diversity",
        "0.5",
        "--explain",
    ]
    assert cli.main([*command, *wishes, "--json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    rows = {row["parent_asin"]: row for row in tiny.catalogue.to_dicts()}
    wanted = {
        a for a, row in rows.items() if row["store"] == "Shop 2" and {"Shelf 1", "Shelf 2"} & {*row["categories"]}
    }
    assert {item["parent_asin"] for item in items} == wanted and "B2" in wanted
    assert all(item["because"]["parent_asin"] in ("B2", "B4") for item in items)
    assert cli.main([*command, "--k", "1", "--explain"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "like"]
    assert cli.main([*command, "--k", "3"]) == 0
    plain = capsys.readouterr().out
    assert "like" not in plain and len(plain.splitlines()) == 3


def test_an_item_without_a_time_was_bought_last(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    outputs, then = [], 1_391_040_000_000
    for history in (["B2", f"B1@{then}"], [f"B1@{then}", "B2@1700000000000"], [f"B2@{then}", "B1@1700000000000"]):
        cli.main(["recommend", "--bundle", str(tiny.bundle), "--tower", "cf", "--history", *history])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


def test_no_history_says_that_the_items_are_popular(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recommend", "--bundle", str(tiny.bundle), "--k", "2"]) == 0
    assert "most popular" in capsys.readouterr().out


def test_an_id_may_hold_an_at_sign_as_the_time_comes_after_the_last_one(tiny: Any, capsys: Any) -> None:
    history = ["a@1@1391040000000", "B00@x@1391040000001", "B1"]
    command = ["recommend", "--bundle", str(tiny.bundle), "--tower", "cf", "--json", "--history", *history]
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out)["unknown"] == ["a@1", "B00@x"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--k", "0"], "`k` is 0"),
        (["--k", "31"], "`k` is 31, but the catalogue has 30 items"),
        (["--tower", "gpt"], '`tower` is "gpt": must be one of llm, cf, teacher'),
        (
            ["--history", "B1@yesterday"],
            'history "B1@yesterday": no time in ms or of ISO 8601 comes after the last @. Write <id>@13',
        ),
        (
            ["--history", "B1@-1"],
            'history "B1@-1": the time is outside the years 1990 to 2100; it must be ms since 1970',
        ),
        (["--history", "B1@1391040000"], "the time is outside the years 1990 to 2100"),
        (["--history", f"B1@{'9' * 5000}"], "the time is outside the years 1990 to 2100"),
        (["--history", "B1@1_391_040_000_000"], "no time in ms or of ISO 8601 comes after the last @"),
        (["--history", "B00@x"], "an id with an @ in it needs its time"),
        (["--history", "B1@1969-01-01"], "the time is outside the years 1990 to 2100"),
        (["--history", "B1@2014-02-30"], "no time in ms or of ISO 8601 comes after the last @"),
        (["--diversity", "2"], "`diversity` is 2.0: must be 1 or less"),
        (["--diversity", "nan"], "`diversity` is NaN"),
        (["--history", "@1391040000000"], "no item's id comes before the @"),
    ],
)
def test_a_bad_request_is_one_line(
    tiny: Any, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["recommend", "--bundle", str(tiny.bundle), *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_no_bundle_and_no_registry_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert cli.main(["recommend", "--bundle", str(tmp_path)]) == 1
    assert "is not a bundle" in capsys.readouterr().err
    assert cli.main(["recommend", "--history", "B1"]) == 1
    assert "no registry at" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["paper", "claims"])
def test_runs_are_not_counted_where_there_is_no_repository(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert cli.main([command]) == 1
    assert "params.yaml is not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "recommend",
        "score",
        "serve",
        "items",
        "items add",
        "drift",
        "import",
        "preset",
        "tune",
        "evaluate",
        "promote",
        "rollback",
        "nominate",
        "history",
        "summary",
        "compare",
        "paper",
        "paper run",
        "paper page",
        "claims",
        "claims run",
        "claims page",
        "registered",
    ],
)
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([*command.split(), "--help"])
    assert f"llmsrec {command}" in capsys.readouterr().out.partition("example:")[2]


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["preset"]) == 0
    papers = ["paper/Movies", "paper/Scientific", "paper/Electronics", "paper/CDs"]
    assert capsys.readouterr().out.split() == [*papers, "teacher/strong", "warm"]
    assert cli.main(["preset", "paper/Books"]) == 1
    assert "no preset 'paper/Books'; there are paper/Movies" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "category", "fraction", "batch_size"),
    [
        ("paper/Movies", "Movies_and_TV", 0.05, 20),
        ("paper/Scientific", "Industrial_and_Scientific", 1.0, 20),
        ("paper/Electronics", "Electronics", 0.05, 16),
        ("paper/CDs", "CDs_and_Vinyl", 0.33, 20),
    ],
)
def test_dvc_takes_a_preset_and_the_params_are_the_papers(
    name: str, category: str, fraction: float, batch_size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["preset", name]) == 0
    flag, *overrides = capsys.readouterr().out.replace("-S ", "-S").split("-S")
    assert flag == ""
    assert not any(" " in override.strip() for override in overrides)  # the shell splits where there is a space
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    apply_overrides(tmp_path / "params.yaml", [override.strip() for override in overrides])
    actual = params.load(tmp_path / "params.yaml")
    assert (actual.data.source, actual.data.category, actual.data.user_fraction) == ("hub", category, fraction)
    assert (actual.train.batch_size, actual.train.lr, actual.train.epochs, actual.train.patience) == (
        batch_size,
        1e-4,
        10,
        10,
    )
    assert actual.backbone.model == "meta-llama/Llama-3.2-3B-Instruct"
    assert actual.backbone.revision == presets.PAPER["backbone.revision"]
    assert (actual.sasrec.loss, actual.sasrec.dim, actual.model.d_prime) == ("bce", 64, 128)


@pytest.mark.parametrize(("name", "sections"), [("teacher/strong", ["sasrec"]), ("warm", ["sasrec", "train"])])
def test_dvc_takes_a_preset_of_training_and_nothing_else_changes(
    name: str, sections: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["preset", name]) == 0
    overrides = capsys.readouterr().out.replace("-S ", "-S").split("-S")[1:]
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    apply_overrides(tmp_path / "params.yaml", [override.strip() for override in overrides])
    actual, committed = params.load(tmp_path / "params.yaml"), params.load(REPOSITORY / "params.yaml")
    for section in sections:
        assert getattr(actual, section) != getattr(committed, section)
    assert actual.model_copy(update={section: getattr(committed, section) for section in sections}) == committed


def test_an_override_changes_its_own_line_of_the_committed_file_and_no_other(tmp_path: Path) -> None:
    """DVC writes the whole file anew: lists that were indented in another way changed, too."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    apply_overrides(tmp_path / "params.yaml", ["model.uniform=false"])
    lines = [(p / "params.yaml").read_text().splitlines() for p in (REPOSITORY, tmp_path)]
    assert [(a, b) for a, b in zip(*lines, strict=True) if a != b] == [("  uniform: true", "  uniform: false")]


def test_what_dvc_exp_show_drops_leaves_the_summarys_figures_and_the_parameters() -> None:
    """DVC matches from a column's beginning: a pattern without `.*` left the slices of evaluation.json in."""
    dropped = ["Created", "llm_srec.test.full.cold.hr_10", "sasrec.valid.uni99.ndcg_10", "models/bundle", "full_hr_10"]
    dropped += ["llm_srec.user_vectors.distance", "teacher_full_ndcg_10", "llm_srec.test_shuffled.full.hr_20"]
    kept = ["Experiment", "uni99_ndcg_10", "full_ndcg_10", "full_shuffled", "model.uniform", "sasrec.dim", "train.seed"]
    kept += ["evaluate.validation_users", "split.seed"]
    assert [name for name in dropped + kept if not re.match(summary.UNCHANGING, name)] == kept
    assert summary.UNCHANGING in (REPOSITORY / "README.md").read_text()


SUMMARY = {
    "llm_srec": {"ndcg_10": 0.5, "hr_10": 0.75},
    "sasrec": {"ndcg_10": 0.25, "hr_10": 0.5},
    "popularity": {"ndcg_10": 0.125, "hr_10": 0.25},
}


def towers_of() -> dict[str, Any]:
    scores = {"llm": 0.12, "cf": 0.05, "teacher": 0.1}
    of = {name: {protocol: {"mean": score} for protocol in ("uni99", "full")} for name, score in scores.items()}
    low = {name: {"full": {"difference": x - 0.1, "low": x - 0.11, "high": x - 0.09}} for name, x in scores.items()}
    minus = {name: low[name] for name in ("llm", "cf")}
    return {"ndcg_10": of, "hr_10": of, "minus_teacher": minus}


def test_summary_shows_metrics_version_and_what_to_type_next(
    tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["summary"]) == 1
    assert "metrics/evaluation.json is not there" in capsys.readouterr().err
    (tmp_path / "metrics").mkdir()
    (tmp_path / "reports").mkdir()
    shutil.copytree(tiny.bundle, tmp_path / "models/bundle")
    evaluation = {
        model: {split: {"uni99": scores, "full": scores} for split in ("test", "test_shuffled")}
        for model, scores in SUMMARY.items()
    }
    registered = {"name": "llm-srec", "version": 3, "run_id": "abc", "bundle_sha256": "0"}
    (tmp_path / "metrics/evaluation.json").write_text(json.dumps(evaluation))
    (tmp_path / "reports/comparison.json").write_text(json.dumps({"negatives": 20, "towers": towers_of()}))
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    (tmp_path / "metrics/registered.json").write_text(json.dumps(registered))
    assert cli.main(["summary"]) == 0
    shown = capsys.readouterr().out
    for expected in (
        "0.7500",
        "among 20 sampled",
        "llm-srec version 3",
        "models:/llm-srec/3",
        "--history B",
        "`tower: teacher` answers instead",
        "llmsrec promote llm-srec/3 --to staging",
        "llmsrec serve models:",
        "-0.0500 [-0.0600, -0.0400]",
        "warning: cf: .0500, below its teacher's .1000: not to be served",
        "an answer here, to Bottle no ",
    ):
        assert expected in shown
    assert "--tower" not in shown  # llm is level with its teacher
    assert "git commit" not in shown, "nothing to commit without a dvc.lock"
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    cli.main(["summary"])
    assert "git add dvc.lock params.yaml metrics reports && git commit" in capsys.readouterr().out
    who = ["-c", "user.name=x", "-c", "user.email=x"]
    for command in (["add", "dvc.lock"], [*who, "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    cli.main(["summary"])
    assert "git commit" not in capsys.readouterr().out
    comparison = json.loads((tmp_path / "reports/comparison.json").read_text())
    comparison["towers"]["minus_teacher"]["llm"]["full"]["low"] = -0.02
    (tmp_path / "reports/comparison.json").write_text(json.dumps(comparison))
    assert cli.main(["summary"]) == 0
    assert "models:/llm-srec/3 --tower teacher --k 5 --history B" in capsys.readouterr().out, (
        "the example's tower is good"
    )
    (tmp_path / "reports/ranks.parquet").write_bytes(b"PAR1 half")
    assert cli.main(["summary"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert "reports/ranks.parquet cannot be read as parquet" in captured.err


def test_the_console_script_starts_without_torch_and_mlflow() -> None:
    script = (
        "import sys; from llmsrec import cli; cli.parser(); print({'torch', 'mlflow', 'polars'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
