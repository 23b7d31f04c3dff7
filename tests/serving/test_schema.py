import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llmsrec.data.layouts import check_review
from llmsrec.errors import RequestError
from llmsrec.serving import limits
from llmsrec.serving.schema import Request, Similar, parse
from llmsrec.times import EARLIEST, LATEST

EVENT = {"parent_asin": "B1", "timestamp": 1_391_040_000_000}


def test_the_contracts_request_is_read_as_it_stands() -> None:
    (request,) = parse([{"history": [EVENT], "k": 3, "tower": "cf"}])
    assert (request.history[0].parent_asin, request.history[0].timestamp) == ("B1", 1_391_040_000_000)
    assert (request.k, request.tower) == (3, "cf")


def test_k_and_tower_have_defaults() -> None:
    assert parse([{"history": []}]) == [Request(history=[], k=10, tower=None)]


def test_whole_numbers_are_read_however_they_are_written() -> None:
    """As JSON Schema has it: R writes 1.39104e12, and others 10.0."""
    (request,) = parse(json.loads('[{"history": [{"parent_asin": "B1", "timestamp": 1.39104e12}], "k": 3.0}]'))
    assert (request.k, request.history[0].timestamp) == (3, 1_391_040_000_000)
    assert {type(request.k), type(request.history[0].timestamp)} == {int}
    for number in ("1e400", "NaN", "-1e400", "1391040000000.5"):
        with pytest.raises(RequestError, match=r"`history\.0\.timestamp`"):
            parse(json.loads(f'[{{"history": [{{"parent_asin": "B1", "timestamp": {number}}}]}}]'))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"k": 0}, "`k`"),
        ({"k": -1}, "`k`"),
        ({"k": "3"}, "`k`"),
        ({"k": 2.5}, "`k`"),
        ({"k": True}, "`k`"),
        ({"k": None}, "`k`"),
        ({"tower": "gpt"}, "`tower`"),
        ({"tower": 1}, "`tower`"),
        ({"towr": "cf"}, "`towr`"),
        ({"history": "B1"}, "`history`"),
        ({"history": None}, "`history`"),
        ({"history": ["B1"]}, "`history.0`"),
        ({"history": [EVENT, {"parent_asin": "B1"}]}, "`history.1.timestamp`"),
        ({"history": [{"timestamp": 1}]}, "`history.0.parent_asin`"),
        ({"history": [{"parent_asin": 5, "timestamp": 1}]}, "`history.0.parent_asin`"),
        ({"history": [{"parent_asin": "B1", "timestamp": -1}]}, "`history.0.timestamp`"),
        ({"history": [{"parent_asin": "B1", "timestamp": "2014"}]}, "`history.0.timestamp`"),
        ({"history": [{"parent_asin": "B1", "timestamp": 10**15}]}, "`history.0.timestamp`"),
        ({"history": [EVENT | {"rating": 5}]}, "`history.0.rating`"),
        ({"history": [EVENT] * 10_001}, "`history`"),
    ],
)
def test_a_bad_field_is_named_with_its_request(change: dict, name: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse([{"history": [EVENT]}, {"history": [EVENT]} | change])
    message = str(caught.value)
    assert message.startswith(f"request 1, {name}")
    assert len(message) < 300


@pytest.mark.parametrize("event", [{"parent_asin": "B2"}, {"parent_asin": "B2", "timestamp": None}])
def test_a_time_that_is_missing_among_others_is_answered_with_what_helps(event: dict) -> None:
    with pytest.raises(RequestError, match=r"`history\.1\.timestamp` is missing; give each event of a history a time"):
        parse([{"history": [EVENT, event]}])


def test_a_field_that_is_not_one_is_answered_with_those_that_are() -> None:
    with pytest.raises(
        RequestError, match=r"`kk` is not a field of a request, whose fields are history, k, tower, excl"
    ):
        parse([{"history": [], "kk": 1}])
    with pytest.raises(RequestError, match=r"0.rating` is not a field of an event, whose fields are parent_asin, time"):
        parse([{"history": [EVENT | {"rating": 5}]}])


def test_what_is_no_list_of_requests_is_refused() -> None:
    with pytest.raises(RequestError, match="not a list"):
        parse({"history": []})
    with pytest.raises(RequestError, match="request 0, `the whole`"):
        parse(["B1"])
    with pytest.raises(RequestError, match="request 0, `history` is missing"):
        parse([{}])


def test_what_was_sent_is_shown_as_json_and_can_be_sent_back() -> None:
    for tower, shown in (("gpt", '"gpt"'), ("\ud800", '"\\ud800"'), ("x" * 200, f'"{"x" * 56}...')):
        with pytest.raises(RequestError) as refused:
            parse([{"history": [], "tower": tower}])
        assert f"`tower` is {shown}: must be" in str(refused.value).encode().decode()


@given(st.one_of(st.integers(), st.sampled_from([EARLIEST - 1, EARLIEST, LATEST, LATEST + 1, 1_391_040_000])))
def test_a_time_is_refused_as_in_a_raw_file_and_in_its_words(time: int) -> None:
    try:
        check_review({"user_id": "u", "parent_asin": "i", "rating": 5.0, "timestamp": time})
    except ValueError as raw:
        with pytest.raises(RequestError) as refused:
            parse([{"history": [{"parent_asin": "i", "timestamp": time}]}])
        assert str(raw).partition(", outside")[2] == str(refused.value).partition(": outside")[2]
    else:
        assert parse([{"history": [{"parent_asin": "i", "timestamp": time}]}])[0].history[0].timestamp == time


def asked(k: int = 1, events: int = 0) -> dict[str, object]:
    return {"history": [EVENT] * events, "k": k}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([asked()] * (limits.REQUESTS + 1), "257 requests in one call, and 256 are the most"),
        ([asked(limits.ITEMS), asked(1)], "the `k` of 2 requests add up to 10001, and 10000 are the most"),
        ([asked(10**4000)], "request 0, `k` is 10{56}\\.\\.\\.: must be 10000 or less"),
        ([asked(events=1000)] * 51, "the histories of 51 requests hold 51000 events, and 50000 are the most"),
        ([asked(events=limits.HISTORY + 1)], "request 0, `history` .* at most 1000 entries"),
        (
            [{"history": [{**EVENT, "parent_asin": "x" * 257}]}],
            "`history.0.parent_asin` .* at most 256 characters",
        ),
    ],
)
def test_more_than_one_call_may_ask_for_is_one_line(values: list[object], expected: str) -> None:
    with pytest.raises(RequestError, match=expected) as caught:
        limits.check_sums(parse(values))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_as_much_as_one_call_may_ask_for_is_read() -> None:
    limits.check_sums(parse([asked(39, 195)] * limits.REQUESTS))
    limits.check_sums(parse([asked(limits.ITEMS, limits.HISTORY)]))


def accepted(kind, value):
    try:
        kind.model_validate(value)
    except ValidationError:
        return False
    return True


NAMES = [{}, *({name: value} for name in ("parent_asin", "title") for value in (None, "a"))]
TIMES = [None, EARLIEST - 1, EARLIEST, LATEST, LATEST + 1]
DOCUMENTED = [
    *((Similar, one | other) for one in NAMES for other in NAMES),
    *((Request, {"history": [{"parent_asin": "a", "timestamp": time}]}) for time in TIMES),
]


@pytest.mark.parametrize(("kind", "value"), DOCUMENTED)
def test_the_document_says_what_is_taken(kind, value):
    assert jsonschema.Draft202012Validator(kind.model_json_schema()).is_valid(value) == accepted(kind, value)
