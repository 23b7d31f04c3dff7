"""What a long command says of how far it is, on a terminal and elsewhere."""

import os
import pty
import re
import subprocess
import sys
import termios
import time

import pytest

from llmsrec import progress
from llmsrec.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its only number is the time."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_twenty_seconds(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(1_000) as said:
        for _ in range(10):
            clock[0] += 5
            said.add(50)
    assert capsys.readouterr().out.splitlines() == [
        "200 of 1,000 users, 10 users/s, 80 s left",
        "400 of 1,000 users, 10 users/s, 60 s left",
    ]
    assert said.rate() == 10


def test_the_time_left_follows_tokens_where_rows_differ(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(30, unit="items", label="catalogue", tokens=4_000) as said:
        clock[0] += progress.EVERY_S
        said.add(10, 2_000)
    assert capsys.readouterr().out == "catalogue: 10 of 30 items, 100 tokens/s, 20 s left\n"


def test_what_was_done_before_is_no_speed(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100, unit="samples", label="training", tokens=1_000) as said:
        said.skip(60, 600)
        clock[0] += 40
        said.add(20, 200)
    assert capsys.readouterr().out == "training: 80 of 100 samples, 5 tokens/s, 40 s left\n"
    assert said.rate() == 0.5


def test_a_terminal_gets_a_bar_that_other_lines_leave_whole() -> None:
    code = """
from llmsrec.progress import Progress
with Progress(4, unit="samples", label="training", tokens=40) as said:
    said.skip(1, 10)
    said.add(3, 30)
    said.say("epoch 1")
"""
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    done = subprocess.run([sys.executable, "-c", code], stdout=terminal, stderr=terminal, check=False)
    os.close(terminal)
    shown = os.read(controller, 100_000).decode()
    os.close(controller)
    assert done.returncode == 0
    assert re.search(r"training: 100%.*4\.00/4\.00.* tokens/s", shown), shown
    assert re.search(r"\repoch 1\r?\n|\nepoch 1\r?\n", shown), shown
