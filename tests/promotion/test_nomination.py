"""The alias candidate moves on purpose alone."""

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from llmsrec import cli
from llmsrec.promotion import nomination
from tests.registry.made import write_params

SAMPLE = {"data.category": "Sample", "data.source": "sample"}
SHOP = {"data.category": "Shop", "data.source": "files"}


@pytest.fixture(scope="module")
def client(registry: Any) -> MlflowClient:
    """Of the model `nominated`, version 1 of the sample is candidate; 2 is another of it, 3 of a shop."""
    client = MlflowClient(registry.uri)
    client.create_registered_model("nominated")
    for tags in (SAMPLE, SAMPLE, SHOP):
        client.create_model_version("nominated", str(registry.bundle), tags=tags)
    client.set_registered_model_alias("nominated", "candidate", "1")
    return client


@pytest.mark.parametrize(
    ("version", "nominate", "tags", "said"),
    [
        (2, "auto", SAMPLE, ""),
        (1, "auto", SAMPLE | {"dvc.experiment": "tubby-gobs"}, ""),
        (2, "auto", SAMPLE | {"dvc.experiment": "tubby-gobs"}, "an experiment leaves it with version 1"),
        (3, "auto", SHOP, "version 1 holds it and is of other data, Sample (sample), where this is of Shop (files)"),
        (3, "auto", SHOP | {"dvc.experiment": "tubby-gobs"}, "a model of its own (`registry.model`)"),
        (3, "always", SHOP | {"dvc.experiment": "tubby-gobs"}, ""),
        (2, "never", SAMPLE, "`registry.nominate` is never"),
    ],
)
def test_who_takes_the_alias(client: MlflowClient, version: int, nominate: str, tags: Any, said: str) -> None:
    actual = nomination.refusal(client, "nominated", "candidate", version, nominate, tags)
    assert said in actual if said else actual == ""
    assert not actual or f"`llmsrec nominate nominated/{version}` moves it" in actual


def test_an_alias_of_nobody_is_taken_by_whoever_comes_first(client: MlflowClient) -> None:
    tags = SHOP | {"dvc.experiment": "tubby-gobs"}
    assert nomination.refusal(client, "nominated", "other", 3, "auto", tags) == ""


def test_a_person_moves_it(client: MlflowClient, registry: Any, monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    write_params(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    for wanted, more in (("2", ("--model", "nominated")), ("nominated/3", ()), ("models:/nominated/1", ())):
        assert cli.main(["nominate", wanted, *more]) == 0
    assert "nominated version 1 is `candidate` (it was version 3)" in capsys.readouterr().out
    assert client.get_registered_model("nominated").aliases == {"candidate": 1}
    assert cli.main(["nominate", "nominated/9"]) == 1
    assert "no version or alias '9'" in capsys.readouterr().err
    assert cli.main(["nominate", "nominated@candidate", "--model", "shop"]) == 1
    assert "nominated@candidate is not what --model shop says; leave one of them out" in capsys.readouterr().err
