"""From a body to a call, without a server."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.service import decode
from llmsrec.service.decode import Call, Refused

GOOD = {"inputs": [{"history": [{"parent_asin": "B1", "timestamp": 1}], "k": 3}]}
SECRET = "what-was-sent"


def call(body: bytes, kind: str | None = "application/json", encoding: str = "") -> Call:
    """What a body is read as; it arrives in pieces."""
    pieces = [body[start : start + 2**20] for start in range(0, len(body), 2**20)] or [b""]

    async def receive() -> Any:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def read() -> Call:
        decode.check_headers(kind or "", encoding)
        with decode.Bodies().holding() as hold:
            whole = await decode.read(receive, 10, hold)
        assert whole is not None
        return await decode.decode(whole)

    return asyncio.run(read())


def test_a_call_keeps_its_body_and_says_each_requests_tower() -> None:
    for kind in ("application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"):
        assert call(json.dumps(GOOD).encode(), kind) == Call(json.dumps(GOOD).encode(), [None], GOOD["inputs"])
    towers = ["cf", "llm", 7, None, "x" * 9]
    assert call(json.dumps({"inputs": [{"tower": tower} for tower in towers]}).encode()).towers == towers
    large = {"inputs": [{"history": "x" * decode.SMALL}]}
    assert call(json.dumps(large).encode()).requests == large["inputs"], "read in a thread"


TEXT = st.one_of(
    st.text('a\\":{é', max_size=5), st.sampled_from(['"tower": "cf"', '"title": "x"', "tower", '\\"tower": "llm"'])
)
VALUE = st.one_of(st.none(), st.integers(), TEXT)
NAMES = st.sampled_from(["title", "k", "x"])


@given(st.lists(st.tuples(st.dictionaries(NAMES, VALUE), st.sampled_from(["llm", "cf", "teacher", None])), max_size=4))
def test_what_a_text_shows_at_a_glance_are_the_towers_that_it_holds(requests: Any) -> None:
    """With and without spaces; where no request names a tower, there is none; strings that look alike are none."""
    sent = [request | ({"tower": tower} if tower else {}) for request, tower in requests]
    named = sorted({tower for _, tower in requests if tower})
    for separators in ((",", ":"), (", ", " : ")):
        body = json.dumps({"inputs": sent}, separators=separators).encode()
        assert decode.glance(body, decode.INVOCATIONS) == (named or [None])
    for request, _ in requests:
        body = json.dumps(request).encode()
        right = decode.decoded(body, decode.SIMILAR).towers if isinstance(request.get("title"), str) else ["cf"]
        assert decode.glance(body, decode.SIMILAR) == right


def nested(levels: int) -> bytes:
    return b'{"inputs": [{"history": ' + b"[" * levels + b"]" * levels + b"}]}"


BAD = {
    "text/csv": (415, b"a,b\n1,2", "text/csv", "the content type is not application/json"),
    "no type": (415, json.dumps(GOOD).encode(), None, "the content type is not application/json"),
    "another charset": (415, json.dumps(GOOD).encode(), "application/json; charset=latin-1", "in UTF-8"),
    "too large": (413, b" " * (decode.BYTES + 1), "application/json", "the body is larger than 8,388,608 bytes"),
    "far too large": (413, b" " * (decode.BYTES * 20), "application/json", "the body is larger than"),
    "empty": (400, b"", "application/json", "the body is not JSON"),
    "not UTF-8": (400, b'{"inputs": "\xff"}', "application/json", "the body is not UTF-8: byte 12"),
    "cut": (400, b'{"inputs": [{"history": "what-was-sent"', "application/json", "the body is not JSON"),
    "very deep": (400, nested(200_000), "application/json", "the body is nested too deeply"),
    "deep": (400, nested(4), "application/json", "the body is nested too deeply"),
    "many digits": (400, b'{"inputs": [{"k": 1' + b"0" * 4400 + b"}]}", "application/json", "too many digits"),
    "a list": (400, b"[]", "application/json", "the body is not an object with `inputs`"),
    "instances": (400, b'{"instances": [{"k": "what-was-sent"}]}', "application/json", "not an object with `inputs`"),
    "split": (400, b'{"dataframe_split": {"columns": ["what-was-sent"]}}', "application/json", "not an object with"),
    "records": (400, b'{"dataframe_records": [{"history": 1}]}', "application/json", "not an object with `inputs`"),
    "params": (400, b'{"inputs": [], "params": {"a": 1}}', "application/json", "not an object with `inputs`"),
    "a text": (400, b'{"inputs": "what-was-sent"}', "application/json", "not an object with `inputs`, a list"),
    "texts": (400, b'{"inputs": [{"history": []}, "what-was-sent"]}', "application/json", "request 1 is not an object"),
    "NaN": (400, b'{"inputs": [{"k": NaN}]}', "application/json", "not JSON (NaN is no number of JSON's)"),
    "Infinity": (400, b'{"inputs": [{"k": -Infinity}]}', "application/json", "-Infinity is no number of JSON's"),
    "same key": (400, b'{"inputs": [{"k": 1, "k": 2}]}', "application/json", "an object with the same key twice"),
    "same inputs": (400, b'{"inputs": [], "inputs": []}', "application/json", "an object with the same key twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_body_that_cannot_be_meant_is_one_sentence_that_repeats_nothing(case: str) -> None:
    status, body, kind, expected = BAD[case]
    with pytest.raises(Refused) as caught:
        call(body, kind)
    assert caught.value.status == status
    assert expected in caught.value.message and "\n" not in caught.value.message
    assert SECRET not in caught.value.message and len(caught.value.message) < 300


def test_a_compressed_body_is_refused_before_it_is_unpacked() -> None:
    for encoding in ("gzip", "br", "gzip, gzip"):
        with pytest.raises(Refused, match="compressed"):
            call(b"", encoding=encoding)
    assert call(json.dumps(GOOD).encode(), encoding="identity").towers == [None]


def test_a_body_that_does_not_come_and_one_whose_sender_has_gone() -> None:
    async def never() -> Any:
        await asyncio.sleep(60)

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    with pytest.raises(Refused, match=r"not there after 0\.05 s") as caught:
        asyncio.run(decode.read(never, 0.05, lambda _: True))
    assert caught.value.status == 408
    assert asyncio.run(decode.read(gone, 1, lambda _: True)) is None


@pytest.mark.parametrize("levels", range(7))
def test_depth_against_counting_brackets(levels: int) -> None:
    value: Any = 1
    for level in range(levels):
        value = [0, value] if level % 2 else {"a": value, "b": 1}
    assert decode.deeper(value, 4) is (levels > 4)


def test_a_request_that_stands_by_itself_is_a_call_of_one() -> None:
    rank, similar = {"history": [], "candidates": ["B1"], "tower": "cf"}, {"title": "x"}
    assert decode.decoded(json.dumps(rank).encode(), "/rank").requests == [rank]
    assert decode.decoded(json.dumps(rank).encode(), "/rank").towers == ["cf"]
    assert decode.decoded(json.dumps(similar).encode(), "/similar").towers == ["llm"]
    by_item = decode.decoded(b'{"parent_asin": "B1"}', "/similar")
    assert (by_item.towers, by_item.requests, by_item.path) == (["cf"], [], "/similar")
    for path, example in (("/rank", '"candidates": ['), ("/similar", '{"title": ')):
        with pytest.raises(Refused, match=r"the body is not an object; send \{") as caught:
            decode.decoded(b"[]", path)
        assert example in caught.value.message


def test_bodies_are_held_up_to_a_sum_and_small_ones_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "HELD", 3 * decode.SMALL)
    bodies = decode.Bodies()
    with bodies.holding() as one, bodies.holding() as other:
        assert one(decode.SMALL) and bodies.held == 0
        assert one(3 * decode.SMALL) and bodies.held == 2 * decode.SMALL
        assert other(2 * decode.SMALL) and not other(2 * decode.SMALL + 1) and bodies.held == 3 * decode.SMALL
        with bodies.holding() as third:
            assert third(decode.SMALL) and not third(decode.SMALL + 1)
    assert bodies.held == 0
