"""Histories that a service has itself."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import pytest

from llmsrec.errors import DataError
from llmsrec.service.decode import USERS as PATH
from llmsrec.service.decode import Call, Refused
from llmsrec.service.users import Users
from llmsrec.serving import limits
from tests.answers import assert_same_answer
from tests.service.conftest import START, USERS, Running


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("asked", [{"k": 4, "tower": "cf"}, {"tower": "llm", "explain": True, "block": ["B9"]}, {}])
def test_a_user_is_answered_as_the_history_that_is_stored(service: Running, user: str, asked: dict[str, Any]) -> None:
    status, answer, headers = service.ask(asked, f"/users/{quote(user, safe='')}")
    assert (status, headers["x-llmsrec-tower"]) == (200, asked.get("tower", "llm"))
    right = service.ask({"inputs": [asked | {"history": USERS[user]}]})[1]["predictions"][0]
    assert_same_answer(answer, right)
    assert answer["used"] == len(USERS[user])


def test_a_users_id_is_hashed_in_the_log_of_requests_and_in_no_other(service: Running) -> None:
    path = service.log.parent / "requests.jsonl"
    assert service.ask({}, "/users/ann", **{"X-User": "somebody else"})[0] == 200
    by_path = json.loads(path.read_text().splitlines()[-1])
    sent = {"inputs": [{"history": USERS["ann"]}]}
    service.ask(sent, **{"X-User": "ann"})
    by_header = json.loads(path.read_text().splitlines()[-1])
    assert by_path["user"] == by_header["user"] and by_path["history"] == USERS["ann"]
    service.ask({}, "/users/nobody-here")
    log = service.log.read_text()
    assert "/users/{id}" in log and "/users/ann" not in log and "nobody-here" not in log


BAD: dict[str, tuple[str, Any, int, str]] = {
    "unknown": ("nobody", {}, 404, "the service has no such user; send the history to /invocations"),
    "no name": ("", {}, 404, "has no such user"),
    "a history": ("ann", {"history": []}, 400, "`history` is not a field here; send it to /invocations"),
    "a field": ("ann", {"kk": 1}, 400, "`kk` is not a field of a request"),
    "k": ("ann", {"k": 31}, 400, "`k` is 31, but the catalogue has 30"),
    "a list": ("ann", [], 400, "the body is not an object; send"),
    "deep": ("ann", {"filter": [[[]]]}, 400, "the body is nested too deeply; send"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_answered_is_one_sentence(service: Running, case: str) -> None:
    user, sent, expected, said = BAD[case]
    status, answer, _ = service.ask(sent, f"/users/{user}")
    assert (status, set(answer)) == (expected, {"error_code", "message"})
    assert said in answer["message"] and "\n" not in answer["message"]


def history(users: Users, user: str) -> list[str]:
    made = users.call(user, Call(b"{}", [None], [{}], PATH))
    assert json.loads(made.body)["inputs"] == made.requests
    return [event["parent_asin"] for event in made.requests[0]["history"]]


def test_the_last_events_are_kept_by_time_and_equal_times_in_the_files_order(tmp_path: Path) -> None:
    many = limits.HISTORY + 7
    events = pl.DataFrame(
        {
            "user_id": ["u", "v", "u", "u"] + ["w"] * many,
            "parent_asin": ["B2", "B9", "B1", "B3"] + [f"B{n}" for n in reversed(range(many))],
            "timestamp": [START + 1, START, START, START + 1] + [START + n for n in reversed(range(many))],
        }
    )
    events.write_parquet(tmp_path / "users.parquet")
    users = Users.read(tmp_path / "users.parquet")
    assert history(users, "u") == ["B1", "B2", "B3"] and history(users, "v") == ["B9"]
    assert history(users, "w") == [f"B{n}" for n in range(7, many)]
    with pytest.raises(Refused):
        history(users, "x")


def test_a_file_that_cannot_be_read_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "users.jsonl"
    path.write_text('{"user_id": "a", "history": []}\n{"user_id": "b"}\n')
    with pytest.raises(DataError, match=r"users\.jsonl, line 2: `history` is missing"):
        Users.read(path)
    with pytest.raises(DataError, match="is not a file"):
        Users.read(tmp_path / "none.parquet")
