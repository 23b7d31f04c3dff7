"""The list of decisions, as text and as JSON, on a real registry."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from llmsrec import cli
from llmsrec.errors import RequestError
from llmsrec.promotion import aliases
from llmsrec.promotion.ledger import Ledger, existing_ledger, open_ledger
from llmsrec.registry import tracking
from tests.registry.made import write_params


@pytest.fixture
def ledger(registry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """Two decisions on `gated`: one that is done, and one that was cut short."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns/mlflow.db").write_bytes((registry.root / "mlruns/mlflow.db").read_bytes())
    write_params(tmp_path)
    with tracking.session(tmp_path, "") as client:
        ledger = open_ledger(client, "gated", tmp_path)
        ledger.claim(aliases.decide("promote", 1, "staging", {"staging": None}, {"staging": 1}, 1))
        ledger.keep(1, {"figure": 0.5}, "# why\n")
        ledger.close(1, "done")
        ledger.claim(aliases.decide("rollback", 2, "staging", {"staging": 1}, {"staging": 2}, 2))
        yield ledger


def test_json_holds_every_decision_and_its_outcome(ledger: Ledger, capsys: Any) -> None:
    assert cli.main(["history", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["number"], first["action"], first["before"], first["after"], first["outcome"]) == (
        1,
        "promote",
        {"staging": None},
        {"staging": 1},
        "done",
    )
    assert (second["number"], second["outcome"]) == (2, None)


def test_the_list_says_what_is_unfinished(ledger: Ledger, capsys: Any) -> None:
    assert cli.main(["history"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "staging: none -> 1" in first and " done " in first
    assert "staging: 1 -> 2" in second and " unfinished " in second


def test_a_record_is_shown_and_a_missing_one_is_one_line(ledger: Ledger, capsys: Any) -> None:
    assert cli.main(["history", "1"]) == 0
    assert capsys.readouterr().out == "# why\n"
    assert cli.main(["history", "2"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_an_outcome_is_said_once_and_a_number_is_taken_once(ledger: Ledger) -> None:
    assert ledger.close(1, "undone") == "done", "the first word counts"
    assert [decision.outcome for decision in ledger.decisions()] == ["done", None]
    with pytest.raises(RequestError, match="made decision 2 at the same time"):
        ledger.claim(aliases.decide("promote", 9, "staging", {"staging": 1}, {"staging": 9}, 2))
    assert [decision.version for decision in ledger.decisions()] == [1, 2]


def test_a_decision_of_an_older_ledger_is_read(ledger: Ledger) -> None:
    (key, value) = min(ledger._client.get_run(ledger.run_id).data.params.items())
    older = {name: part for name, part in json.loads(value).items() if not name.startswith("tags_")}
    ledger._client.log_param(ledger.run_id, "0003", json.dumps(older))
    assert key == "0001" and ledger.decisions()[-1].tags_before == {}


def test_a_model_without_decisions_has_no_ledger(ledger: Ledger, registry: Any) -> None:
    assert existing_ledger(MlflowClient(f"sqlite:///{registry.root}/mlruns/mlflow.db"), "gated") is None
