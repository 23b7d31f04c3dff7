"""One way to read a version's name, for every command that takes one."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsrec import cli
from llmsrec.errors import RequestError
from llmsrec.registry import versions
from tests.registry.made import write_params

EVERY_FORM = ["llm-srec/1", "llm-srec@candidate", "models:/llm-srec/1", "models:/llm-srec@candidate"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", (None, "5")),
        ("staging", (None, "staging")),
        ("shop/5", ("shop", "5")),
        ("shop@staging", ("shop", "staging")),
        ("models:/shop/5", ("shop", "5")),
        ("models:/shop@staging", ("shop", "staging")),
        ("shop 2@v.1", ("shop 2", "v.1")),
    ],
)
def test_each_form(text: str, expected: tuple[str | None, str]) -> None:
    assert versions.split(text) == expected


@given(st.text(alphabet="ab1/@:- ", max_size=8))
def test_any_text_is_read_as_two_parts_or_refused(text: str) -> None:
    actual = versions.read(text)
    if actual is None:
        with pytest.raises(RequestError, match="names no version"):
            versions.split(text)
    else:
        model, which = actual
        assert which and not set(which) & set("/@:")
        assert text in {which, f"{model}/{which}", f"{model}@{which}"}


def test_a_model_may_be_said_beside_it_but_not_another_one() -> None:
    assert versions.of("5", None, "shop") == ("shop", "5")
    assert versions.of("5", "other", "shop") == ("other", "5")
    assert versions.of("5", "models:/other", "shop") == versions.of("other/5", "other", "shop") == ("other", "5")
    assert versions.of("5", "other/5", "shop") == ("other", "5")
    for text, model in (("shop/5", "other"), ("5", "other/6"), ("other@staging", "other@candidate")):
        with pytest.raises(RequestError, match="leave one of them out"):
            versions.of(text, model, "shop")
    with pytest.raises(RequestError, match="does not say of which model"):
        versions.of("5", None, None)


@pytest.fixture
def repository(registry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose `registry.model` is another one's, with the registry of these tests."""
    write_params(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    return tmp_path


def test_every_command_takes_every_form(repository: Path, registry: Any, data: Path, capsys: Any) -> None:
    """Each of them with its model, where `registry.model` is `gated`; and without it, where that is `llm-srec`."""
    commands = {
        "recommend": ["recommend", "--tower", "teacher", "--history", "B1@1391040000000", "--model"],
        "score": [
            "score",
            "--tower",
            "teacher",
            "--histories",
            str(data),
            "--out",
            str(repository / "out.parquet"),
            "--model",
        ],
        "nominate": ["nominate"],
        "history": ["history"],
    }
    for form in EVERY_FORM:
        for name, command in commands.items():
            assert cli.main([*command, form]) == 0, (name, form, capsys.readouterr().err)
    text = (repository / "params.yaml").read_text()
    (repository / "params.yaml").write_text(text.replace("model: gated", "model: llm-srec"))
    for name, command in commands.items():
        assert cli.main([*command, "candidate"]) == 0, (name, capsys.readouterr().err)
    capsys.readouterr()
    assert cli.main(["recommend", "--history", "B1", "--model", "llm-srec@nothing"]) == 1
    said = capsys.readouterr().err
    assert "llm-srec has no version or alias 'nothing'; versions: 1; aliases: candidate (1)" in said
    assert said.count("\n") == 1


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """One user's history."""
    path = tmp_path / "one.jsonl"
    path.write_text('{"user_id": "A", "history": [{"parent_asin": "B1", "timestamp": 1391040000000}]}\n')
    return path
