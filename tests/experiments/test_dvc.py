"""DVC's commands: one that is not to be had."""

from pathlib import Path

import pytest

from llmsrec.errors import DataError
from llmsrec.experiments.dvc import dvc


def test_an_environment_that_is_not_activated_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"`dvc` is not on PATH; activate the environment"):
        dvc("status")
