"""The log of requests, and a disk that does not take it."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from llmsrec.errors import DataError
from llmsrec.service.logs import RequestLog
from tests.service.conftest import Running, request


def test_the_request_log_can_be_moved_away(service: Running, tmp_path: Path) -> None:
    path = service.log.parent / "requests.jsonl"
    call = {"inputs": [request([1])]}
    service.ask(call)
    path.rename(tmp_path / "old.jsonl")
    service.ask(call)
    assert len(path.read_text().splitlines()) == 1


def write(log: RequestLog, item: int = 1) -> None:
    log.write([request([item])], ["cf"], None)


def test_a_full_disk_is_told_once_without_what_was_sent(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    log = RequestLog(Path("/dev/full"), 1.0, None)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            write(log)
    (record,) = caplog.records
    assert (record.message, vars(record)["reason"]) == ("requests cannot be logged", "No space left on device")
    assert "B1" not in "".join(capfd.readouterr())


def test_a_folder_that_is_removed_is_told_once_and_written_to_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "logs/requests.jsonl"
    log = RequestLog(path, 1.0, None)
    write(log)
    for _ in range(2):
        shutil.rmtree(path.parent)
        write(log)
        write(log)
        path.parent.mkdir()
        write(log, 2)
        (line,) = path.read_text().splitlines()
        assert json.loads(line)["history"][0]["parent_asin"] == "B2"
    assert len(caplog.records) == 2


def test_a_file_that_cannot_be_written_at_the_start_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--log-requests .* cannot be written: Is a directory"):
        RequestLog(tmp_path, 1.0, None)
