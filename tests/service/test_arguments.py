"""What `llmsrec serve` takes."""

import argparse
import sys

import pytest

from llmsrec.errors import RequestError
from llmsrec.service import arguments


def test_torch_is_not_asked_for_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    command = argparse.ArgumentParser()
    arguments.add(command)
    options = command.parse_args(["models:/llm-srec@staging", "--torch"])
    arguments.check(options)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RequestError, match="torch is not installed here"):
        arguments.check(options)
    arguments.check(command.parse_args(["models:/llm-srec@staging"]))
