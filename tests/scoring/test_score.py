import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from llmsrec import cli, progress
from llmsrec.scoring import histories
from llmsrec.scoring.score import COLUMNS, Wanted, score
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import Event, Request

Histories = dict[str, list[tuple[str, int]]]
DAY = 86_400_000
START = 1_391_040_000_000  # ms
ODD_DAYS: Histories = {
    "tidy": [("B5", 1), ("B6", 2), ("B7", 2), ("B8", 3)],
    "jumbled": [("B8", 3), ("B6", 2), ("B5", 1), ("B7", 2)],
    "ties the other way": [("B8", 3), ("B7", 2), ("B5", 1), ("B6", 2)],
    "repeats": [("B5", 9), ("B6", 2), ("B5", 1), ("B5", 3)],
    "unknown among known": [("X1", 1), ("B3", 2), ("X1", 3), ("X2", 4)],
    "nothing known": [("X3", 1)],
    "nothing left": [(f"B{n}", n) for n in range(1, 31)],
    "three left": [(f"B{n}", n) for n in range(1, 28)],
    "007": [("B1", 0)],
}
ODD = {user: [(asin, START + day * DAY) for asin, day in history] for user, history in ODD_DAYS.items()}


def of_data(data: Path) -> Histories:
    """Every event of every user, the plain way."""
    users = dict(pl.read_parquet(data / "users.parquet").rows())
    asins = dict(pl.read_parquet(data / "items.parquet").select("item_id", "parent_asin").rows())
    histories: Histories = {}
    for user, item, time in pl.read_parquet(data / "interactions.parquet").rows():
        histories.setdefault(users[user], []).append((asins[item], time))
    return histories


def slow(recommender: Recommender, read: Histories, tower: str, k: int = 10) -> dict[str, list[tuple[str, float]]]:
    """One request at a time."""
    answers = {}
    for user, history in read.items():
        events = [Event(parent_asin=asin, timestamp=time) for asin, time in history]
        (answer,) = recommender.recommend([Request(history=events, k=k, tower=tower)])
        answers[user] = [(item.parent_asin, item.score) for item in answer.items]
    return answers


def assert_same(frame: pl.DataFrame, right: dict[str, list[tuple[str, float]]]) -> None:
    """Same users, items and order; scores to 1e-5."""
    assert frame.schema == COLUMNS
    for (user,), rows in frame.partition_by("user_id", as_dict=True, maintain_order=True).items():
        expected = right[str(user)]
        assert rows["rank"].to_list() == list(range(1, len(expected) + 1))
        assert rows["parent_asin"].to_list() == [asin for asin, _ in expected]
        np.testing.assert_allclose(rows["score"], [value for _, value in expected], rtol=1e-5, atol=1e-5)
    assert set(frame["user_id"]) == {user for user, items in right.items() if items}


def write_rows(path: Path, read: Histories) -> Path:
    """The events as parquet, those of different users mixed, each user's in their order."""
    rows = [(place, user, *event) for user, history in read.items() for place, event in enumerate(history)]
    frame = pl.DataFrame(rows, schema=["place", *histories.SCHEMA], orient="row")
    frame.sort("place", maintain_order=True).drop("place").write_parquet(path)
    return path


def write_lines(path: Path, read: Histories) -> Path:
    lines = [
        {"user_id": user, "history": [{"parent_asin": asin, "timestamp": time} for asin, time in history], "k": 3}
        for user, history in read.items()
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return path


def done(bundle: Bundle, source: histories.Source, out: Path, *wanted: Any) -> pl.DataFrame:
    score(bundle, "shop/3", source, out, Wanted(*wanted))
    return pl.read_parquet(out)


@pytest.mark.parametrize("tower", ["cf", "llm", "teacher"])
def test_all_users_of_the_data_get_what_one_request_each_would(
    tower: str, data: Path, bundle: Bundle, recommender: Recommender, tmp_path: Path, small: None
) -> None:
    frame = done(bundle, histories.of_data(data), tmp_path / "out.parquet", tower, 10)
    assert_same(frame, slow(recommender, of_data(data), tower))
    assert set(frame["version"]) == {"shop/3"} and set(frame["tower"]) == {tower}
    assert frame["created"].n_unique() == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "out.parquet"]


@pytest.mark.parametrize("write", [write_rows, write_lines])
@pytest.mark.parametrize("tower", ["cf", "llm", "teacher"])
def test_odd_histories_of_a_file_get_what_one_request_each_would(
    write: Any, tower: str, bundle: Bundle, recommender: Recommender, tmp_path: Path, small: None
) -> None:
    read = ODD | ({"no history": []} if write is write_lines else {})
    path = write(tmp_path / ("in.parquet" if write is write_rows else "in.jsonl"), read)
    out = tmp_path / "out.parquet"
    summary = score(bundle, "shop/3", histories.of_file(path), out, Wanted(tower, 10))
    assert_same(pl.read_parquet(out), slow(recommender, read, tower))
    popular = set(pl.read_parquet(out).filter(pl.col("tower") == "popular")["user_id"])
    assert popular == {"nothing known", *(["no history"] if write is write_lines else [])}
    users = len(read)
    assert summary.counts == {
        "users": users,
        "rows": 10 * (users - 2) + 3,
        "unknown": 3,
        "popular": len(popular),
        "short": 2,
    }


def test_events_of_a_user_are_found_together_wherever_they_stand(data: Path, tmp_path: Path, small: None) -> None:
    path = write_rows(tmp_path / "in.parquet", of_data(data))
    folder = tmp_path / "events"
    folder.mkdir()
    counts = histories.spread(histories.of_file(path), folder)
    assert len(counts) > 2 and sum(counts) == 40
    read = {
        user: list(zip(asins, times, strict=True))
        for bucket in range(len(counts))
        for user, asins, times in histories.users_of(folder, bucket).rows()
    }
    assert read == of_data(data)


def test_shards_share_no_user_and_together_are_all(
    data: Path, bundle: Bundle, recommender: Recommender, tmp_path: Path
) -> None:
    source = histories.of_data(data)
    frames = [done(bundle, source, tmp_path / f"{i}.parquet", "cf", 5, (i, 3)) for i in (1, 2, 3)]
    sets = [set(frame["user_id"]) for frame in frames]
    assert sum(map(len, sets)) == 40 and min(map(len, sets)) > 0
    assert_same(pl.concat(frames), slow(recommender, of_data(data), "cf", 5))
    few = histories.of_file(write_rows(tmp_path / "in.parquet", {"a": [("B1", START)]}))
    sizes = [done(bundle, few, tmp_path / f"few-{i}.parquet", "cf", 5, (i, 9)).height for i in range(1, 10)]
    assert sorted(sizes) == [0] * 8 + [5]


KILLED = """
import os, signal, sys
from pathlib import Path
from llmsrec.scoring import histories, parts, score
from llmsrec.serving.bundle import Bundle
score.USERS, histories.EVENTS, write = 4, 64, parts.Parts.write
def write_three(self, number, *rest):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, number, *rest)
parts.Parts.write = write_three
data, bundle, out = map(Path, sys.argv[1:])
score.score(Bundle.open(bundle), "shop/3", histories.of_data(data), out, score.Wanted("cf", 10))
"""


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(
    data: Path, bundle: Bundle, tmp_path: Path, small: None
) -> None:
    out, whole, before = tmp_path / "out.parquet", tmp_path / "whole.parquet", b"what was there before"
    out.write_bytes(before)
    command = [sys.executable, "-c", KILLED, data, bundle.folder, out]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert out.read_bytes() == before
    summary = score(bundle, "shop/3", histories.of_data(data), out, Wanted("cf", 10))
    assert 4 <= summary.resumed <= 12  # three parts, some of them the last of a bucket
    uninterrupted = score(bundle, "shop/3", histories.of_data(data), whole, Wanted("cf", 10))
    assert uninterrupted.resumed == 0 and uninterrupted.counts == summary.counts
    assert pl.read_parquet(out).drop("created").equals(pl.read_parquet(whole).drop("created"))
    assert sorted(tmp_path.iterdir()) == [out, whole]


def test_parts_of_another_question_are_not_used(data: Path, bundle: Bundle, tmp_path: Path, small: None) -> None:
    out = tmp_path / "out.parquet"
    subprocess.run([sys.executable, "-c", KILLED, data, bundle.folder, out], check=False)
    summary = score(bundle, "shop/3", histories.of_data(data), out, Wanted("cf", 9))
    assert (summary.resumed, summary.counts["rows"]) == (0, 360)
    assert list(tmp_path.iterdir()) == [out]


def test_an_error_leaves_what_was_there(bundle: Bundle, tmp_path: Path, small: None) -> None:
    out, path = tmp_path / "out.parquet", tmp_path / "in.jsonl"
    out.write_bytes(b"before")
    write_lines(path, ODD)
    path.write_text(path.read_text() + "\n{}\n")
    assert cli.main(["score", "--bundle", str(bundle.folder), "--histories", str(path), "--out", str(out)]) == 1
    assert out.read_bytes() == b"before"


def test_the_command_says_what_it_wrote(
    data: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(data.parents[1]))
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    out = tmp_path / "deeper/out.parquet"
    assert cli.main(["score", "--bundle", str(bundle.folder), "--out", str(out), "--tower", "cf", "--k", "26"]) == 0
    *lines, summary = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("40 of 40 users, ") and lines[-1].endswith(" s left")
    for said in (
        f"{out}: ",
        " rows of 40 users by ",
        "tower cf",
        "users/s",
        "0 unknown",
        "0 users got",
        "fewer than 26",
    ):
        assert said in summary
    events = pl.read_parquet(data / "interactions.parquet").height
    assert pl.read_parquet(out).height == 40 * 30 - events  # all that a history leaves


BAD_LINES = {
    "text": (b"hello", "line 2: not valid JSON: a value is missing at column 1, near"),
    "no user": (b'{"history": []}', "line 2: `user_id` is missing"),
    "a user's number": (b'{"user_id": 3, "history": []}', "line 2: `user_id` is 3: must be a text"),
    "an empty id": (b'{"user_id": "", "history": []}', 'line 2: `user_id` is ""'),
    "no history": (b'{"user_id": "a"}', "line 2: `history` is missing"),
    "a time in words": (
        b'{"user_id": "a", "history": [{"parent_asin": "B1", "timestamp": "now"}]}',
        'line 2: `history.0.timestamp` is "now"',
    ),
    "seconds": (
        b'{"user_id": "a", "history": [{"parent_asin": "B1", "timestamp": 1391040000}]}',
        "line 2: `history.0.timestamp` is 1391040000: outside the years",
    ),
    "not UTF-8": (b'{"user_id": "\xff", "history": []}', "line 2: not valid JSON: it is not UTF-8 from byte 13 on"),
}


@pytest.mark.parametrize(("line", "said"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_named(line: bytes, said: str, bundle: Bundle, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"user_id": "a", "history": []}\n' + line)
    assert_one_line(["--bundle", str(bundle.folder), "--histories", str(path)], said, tmp_path, capsys)


BAD_ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "no user": ({"user_id": ["a", None]}, 'row 2: user_id null, parent_asin "B1"'),
    "an empty user": ({"user_id": ["a", ""]}, 'row 2: user_id ""'),
    "no item": ({"parent_asin": ["B1", None]}, 'row 2: user_id "a", parent_asin null'),
    "before 1970": ({"timestamp": [START, -1]}, 'row 2: user_id "a", parent_asin "B1", timestamp -1'),
    "seconds": ({"timestamp": [START, START // 1000]}, "outside the years 1990 to 2100; it must be ms"),
    "no time": ({"timestamp": [START, None]}, "timestamp null"),
    "times as text": ({"timestamp": ["1", "2"]}, "the column timestamp is String"),
    "times as fractions": ({"timestamp": [1.5, 2.0]}, "the column timestamp is Float64"),
    "ids as fractions": ({"parent_asin": [1.5, 2.0]}, "the column parent_asin is Float64"),
}


@pytest.mark.parametrize(("columns", "said"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_named(columns: dict[str, Any], said: str, bundle: Bundle, tmp_path: Path, capsys: Any) -> None:
    path, two = (
        tmp_path / "in.parquet",
        {"user_id": ["a", "a"], "parent_asin": ["B1", "B1"], "timestamp": [START, START]},
    )
    pl.DataFrame({**two, **columns}).write_parquet(path)
    assert_one_line(["--bundle", str(bundle.folder), "--histories", str(path)], said, tmp_path, capsys)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--k", "0"], "--k is 0, but the catalogue has 30 items"),
        (["--k", "31"], "--k is 31, but the catalogue has 30 items"),
        (["--tower", "gpt"], "--tower is 'gpt'; it is one of llm, cf"),
        (["--shard", "0/4"], "--shard is '0/4'"),
        (["--shard", "5/4"], "--shard is '5/4'"),
        (["--shard", "half"], "write i/n"),
        (["--histories", "no-such.parquet"], "no-such.parquet is not a file"),
        (["--histories", "in.csv"], "ends in neither .parquet"),
        (["--histories", "text.parquet"], "cannot be read as parquet"),
        (["--histories", "columns.parquet"], "has no column parent_asin, timestamp, but user_id, item"),
        (["--histories", "empty.parquet"], "holds no users"),
        (["--out", "."], "is a folder"),
        (["--out", "in.csv/out.parquet"], "cannot write to in.csv"),
        ([], "data/filtered/interactions.parquet is not there"),
    ],
)
def test_a_bad_option_is_one_line(
    options: list[str], said: str, bundle: Bundle, data: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(data.parents[1] if options else tmp_path))
    Path("in.csv").write_text("user_id,parent_asin,timestamp\n")
    Path("text.parquet").write_text("hello")
    pl.DataFrame({"user_id": ["a"], "item": ["B1"]}).write_parquet("columns.parquet")
    pl.DataFrame(schema=histories.SCHEMA).write_parquet("empty.parquet")
    assert_one_line(["--bundle", str(bundle.folder), *options], said, tmp_path, capsys)


def assert_one_line(options: list[str], said: str, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out.parquet"
    assert cli.main(["score", "--out", str(out), "--tower", "cf", *options]) == 1
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert not out.exists()


def test_ids_that_are_numbers_and_times_that_are_dates_are_taken(
    bundle: Bundle, recommender: Recommender, tmp_path: Path
) -> None:
    path = tmp_path / "in.parquet"
    times = pl.Series([START, START + 3 * DAY]).cast(pl.Datetime("ms")).cast(pl.Datetime("us", "UTC"))
    pl.DataFrame({"user_id": [7, 7], "parent_asin": ["B1", "B2"], "timestamp": times}).write_parquet(path)
    frame = done(bundle, histories.of_file(path), tmp_path / "out.parquet", "llm", 10)
    assert_same(frame, slow(recommender, {"7": [("B1", START), ("B2", START + 3 * DAY)]}, "llm"))


def test_two_processes_do_not_write_one_file(data: Path, bundle: Bundle, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out.parquet"
    hold = (
        "import sys; from pathlib import Path; from llmsrec.scoring.parts import working\n"
        "with working(Path(sys.argv[1]), 'x'): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", hold, out], stdin=-1, stdout=-1, env={**os.environ}) as other:
        assert other.stdout and other.stdout.readline() == b"held\n"
        path = write_rows(tmp_path / "in.parquet", ODD)
        options = ["--bundle", str(bundle.folder), "--histories", str(path)]
        assert_one_line(options, "another process writes", tmp_path, capsys)
        assert other.stdin
        other.stdin.close()
