"""A service over HTTP: the protocol, what stands around it, and what it refuses."""

import contextlib
import gzip
import json
import socket
import threading
import time
from typing import Any

import pytest

from llmsrec.drift.requests import read
from llmsrec.service import decode
from llmsrec.serving import limits
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import TOWERS, Request, parse, parse_rank, parse_similar
from tests.answers import assert_same_answer
from tests.service.conftest import START, Running, post, request

SECRET = "what-was-sent"


def test_a_mixed_call_is_answered_in_order_as_the_bundle_answers(service: Running, tiny: Any) -> None:
    inputs = [request([n, n + 3, n + 5], 7, tower) for n in (1, 2, 3) for tower in ("llm", "cf", "blend")]
    inputs.append({"history": [{"parent_asin": "X1", "timestamp": START}], "k": 2, "tower": "cf"})
    status, body, headers = service.ask({"inputs": inputs})
    assert (status, [*body]) == (200, ["predictions"])
    assert (headers["x-llmsrec-version"], headers["x-llmsrec-tower"]) == ("shop/1", "mixed")
    expected = Recommender.load(tiny.bundle).recommend(parse(inputs))
    for ours, right in zip(body["predictions"], expected, strict=True):
        assert [*ours] == ["items", "used", "unknown", "fallback"]
        assert_same_answer(ours, right.model_dump())
    assert body["predictions"][-1]["fallback"] == "popular"


def test_options_are_answered_as_the_bundle_answers_them(service: Running, tiny: Any) -> None:
    untimed = [{"parent_asin": "B3"}, {"parent_asin": "B8"}]
    wishes: list[dict[str, Any]] = [
        {"exclude_history": False, "explain": True},
        {"allow": ["B1", "B2", "B4", "X1"], "block": ["B2"], "filter": {"category": ["Home"]}},
        {"diversity": 0.7},
        {"history": [{"parent_asin": "B3", "timestamp": "2014-01-30"}]},
    ]
    inputs = [request([4, 2], 4, tower) | wish for wish in wishes for tower in TOWERS]
    inputs.append({"history": untimed, "tower": "cf", "k": 3})
    status, body, _ = service.ask({"inputs": inputs})
    assert status == 200
    for ours, right in zip(body["predictions"], Recommender.load(tiny.bundle).recommend(parse(inputs)), strict=True):
        assert_same_answer(ours, right.model_dump())
    assert service.ask({"inputs": inputs})[0] == 200


@pytest.mark.parametrize("tower", TOWERS)
def test_candidates_are_ranked_and_the_history_is_logged(service: Running, tiny: Any, tower: str) -> None:
    events = request([4, 2])["history"]
    sent = {"history": events, "candidates": ["B9", "B4", "X1", "B30"], "tower": tower, "explain": True}
    status, body, headers = service.ask(sent, "/rank")
    assert (status, headers["x-llmsrec-tower"], headers["x-llmsrec-version"]) == (200, tower, "shop/1")
    (right,) = Recommender.load(tiny.bundle).recommend([parse_rank(sent)])
    assert_same_answer(body, right.model_dump())
    assert (len(body["items"]), body["unknown_candidates"]) == (3, ["X1"])
    logged = json.loads((service.log.parent / "requests.jsonl").read_text().splitlines()[-1])
    assert (logged["history"], logged["tower"]) == (events, tower)


def test_items_like_an_item_or_a_title(service: Running, tiny: Any) -> None:
    recommender = Recommender.load(tiny.bundle)
    for sent, tower in (({"parent_asin": "B7", "k": 4}, "cf"), ({"title": "Bottle no 7 of rose water", "k": 4}, "llm")):
        status, body, headers = service.ask(sent, "/similar")
        assert (status, [*body], headers["x-llmsrec-tower"]) == (200, ["items"], tower)
        right = recommender.similar(parse_similar(sent)).model_dump()
        assert_same_answer(body, right)
    assert len(service.ask({"title": "x"}, "/similar")[1]["items"]) == 10


ALONE: dict[str, tuple[str, Any, int, str]] = {
    "nothing": ("/similar", {}, 400, "one of `parent_asin` and `title` must be given"),
    "both": ("/similar", {"parent_asin": "B1", "title": SECRET}, 400, "and not both"),
    "another item": ("/similar", {"parent_asin": "X1"}, 400, '`parent_asin` is "X1", which the catalogue does not'),
    "k beyond": ("/similar", {"title": "x", "k": 31}, 400, "`k` is 31, but the catalogue has 30"),
    "a field": ("/similar", {"item": "B1"}, 400, "whose fields are parent_asin, title, k, allow, block, filter"),
    "a list": ("/similar", [{"parent_asin": "B1"}], 400, "the body is not an object; send"),
    "inputs": ("/rank", {"inputs": []}, 400, "`inputs` is not a field of a request to /rank"),
    "no candidates": ("/rank", {"history": []}, 400, "`candidates` is missing"),
    "deep": ("/rank", {"history": [[[[]]]], "candidates": ["B1"]}, 400, "the body is nested too deeply; send"),
    "same key": ("/rank", b'{"tower": "cf", "tower": "llm"}', 400, "the same key twice; send"),
    "half a surrogate": ("/similar", b'{"title": "\\ud800"}', 400, "`title` is"),
    "a filter": ("/invocations", {"inputs": [{"history": [], "filter": {"brand": ["x"]}}]}, 400, "category, store"),
}  # fmt: skip


@pytest.mark.parametrize("case", ALONE)
def test_what_cannot_be_meant_of_other_paths_is_one_sentence_too(service: Running, case: str) -> None:
    path, sent, expected, said = ALONE[case]
    status, answer, _ = service.ask(sent, path)
    assert (status, set(answer)) == (expected, {"error_code", "message"})
    assert said in answer["message"] and "\n" not in answer["message"] and len(answer["message"]) < 400
    assert SECRET not in answer["message"]
    assert service.ask({"parent_asin": "B1"}, "/similar")[0] == 200


def test_no_requests_no_answers_and_defaults_are_those_of_the_protocol(service: Running) -> None:
    assert service.ask({"inputs": []})[:2] == (200, {"predictions": []})
    status, body, headers = service.ask({"inputs": [{"history": request([4])["history"]}]})
    assert (status, len(body["predictions"][0]["items"]), headers["x-llmsrec-tower"]) == (200, 10, "llm")


def test_probes_version_and_document(service: Running) -> None:
    import mlflow

    assert service.ask(None, "/livez")[:2] == (200, {"live": True})
    assert service.ask(None, "/ping")[0] == service.ask(None, "/health")[0] == 200
    assert service.ask(None, "/version")[:2] == (200, mlflow.__version__)
    said = service.ask(None, "/readyz")[1]
    assert (said["ready"], said["model"], said["version"], said["alias"]) == (True, "shop", "1", None)
    assert said["towers"] == ["cf", "llm"] or set(said["towers"]) >= {"cf", "llm"}
    document = service.ask(None, "/openapi.json")[1]
    assert set(document["components"]["schemas"]["Request"]["properties"]) == set(Request.model_fields)
    assert {"/invocations", "/rank", "/similar"} <= set(document["paths"])
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
        assert name in document["components"]["schemas"]


def test_every_call_is_counted(service: Running) -> None:
    names = ('llmsrec_calls_total{status="200",tower="cf"}', "llmsrec_unknown_items_total", "llmsrec_fallbacks_total")
    before = [service.metric(name) if service.ask({"inputs": [request([1])]}) else 0.0 for name in names]
    service.ask({"inputs": [{"history": [{"parent_asin": "X", "timestamp": START}], "tower": "cf"}]})
    after = [service.metric(name) for name in names]
    assert after[0] == before[0] + 3 and after[1] == before[1] + 1 and after[2] == before[2] + 1
    assert service.metric('llmsrec_model{alias="",bundle=') == service.metric("llmsrec_ready") == 1
    assert service.metric('llmsrec_resident_bytes{process="others"}') > 2**20


def test_a_user_who_comes_back_is_read_from_the_new_item_on(service: Running) -> None:
    names = ('llmsrec_prompts_total{beginning="kept"}', "llmsrec_kept_positions_total", "llmsrec_kept_bytes")
    service.ask({"inputs": [request([21, 22, 23], 5, "llm")]})
    before = [service.metric(name) for name in names[1:]]
    more = {"inputs": [request([21, 22, 23, 24], 5, "llm")]}
    first = service.ask(more)[1]["predictions"][0]
    again = service.ask(more)[1]["predictions"][0]
    assert_same_answer(first, again)
    after = [service.metric(name) for name in names[1:]]
    assert service.metric(names[0]) >= 2 and after[0] > before[0] and 0 < before[1] < after[1] < 2**28


def test_a_request_id_comes_back_and_stands_in_the_log_without_the_history(service: Running) -> None:
    assert service.ask({"inputs": [request([7])]}, **{"X-Request-Id": "mine-1"})[2]["x-request-id"] == "mine-1"
    other = service.ask({"inputs": []}, **{"X-Request-Id": "x" * 200})[2]["x-request-id"]
    assert len(other) == 32
    (line,) = [line for line in service.lines if line.get("request_id") == "mine-1"]
    assert (line["status"], line["version"], line["tower"], line["requests"]) == (200, "shop/1", "cf", 1)
    assert "B7" not in json.dumps(line)


def test_logged_requests_are_what_drift_reads_and_users_are_hashed(service: Running) -> None:
    path = service.log.parent / "requests.jsonl"
    sent = request([9, 8, 7])
    service.ask({"inputs": [sent]}, **{"X-User": "alice"})
    last = path.read_text().splitlines()[-1]
    assert "alice" not in last and json.loads(last)["history"] == sent["history"]
    service.ask({"inputs": [sent]}, **{"X-User": "alice"})
    again = json.loads(path.read_text().splitlines()[-1])
    assert again["user"] == json.loads(last)["user"]
    assert ([event["parent_asin"] for event in sent["history"]], [e["timestamp"] for e in sent["history"]]) in read(
        path
    )


EVENT = {"parent_asin": "B1", "timestamp": START}
SMALL = {"history": [EVENT], "k": 3, "tower": "cf"}
BAD: dict[str, tuple[Any, dict[str, str], int, str]] = {
    "10,000 requests": ({"inputs": [SMALL] * 10_000}, {}, 400, "10000 requests in one call, and 256 are the most"),
    "50 MB": (b" " * 50_000_000, {}, 413, "the body is larger than 8,388,608 bytes"),
    "100,000 events": ({"inputs": [{"history": [EVENT] * 100_000}]}, {}, 400, "at most 1000 entries"),
    "many events": ({"inputs": [{**SMALL, "history": [EVENT] * 1000}] * 51}, {}, 400, "hold 51000 events"),
    "deep": (b'{"inputs": ' + b"[" * 100_000, {}, 400, "the body is nested too deeply"),
    "NaN": (b'{"inputs": [{"history": [], "k": NaN}]}', {}, 400, "NaN is no number"),
    "1e400": (b'{"inputs": [{"history": [], "k": 1e400}]}', {}, 400, "request 0, `k` is Infinity"),
    "same key twice": (b'{"inputs": [{"history": [], "k": 1, "k": 2}]}', {}, 400, "the same key twice"),
    "invalid UTF-8": (b'{"inputs": [{"history": "\xff"}]}', {}, 400, "the body is not UTF-8: byte 25"),
    "half a surrogate": (b'{"inputs": [{"history": [], "tower": "\\ud800"}]}', {}, 400, "`tower` is"),
    "gzip": (gzip.compress(b" " * 10**8), {"Content-Encoding": "gzip"}, 415, "the body is compressed"),
    "csv": (b"history,k\n1,2", {"Content-Type": "text/csv"}, 415, "the content type is not application/json"),
    "another form": ({"dataframe_records": [SMALL]}, {}, 400, "not an object with `inputs`"),
    "k of 0": ({"inputs": [SMALL, {**SMALL, "k": 0}]}, {}, 400, "request 1, `k` is 0"),
    "k beyond": ({"inputs": [SMALL, {**SMALL, "k": 31}]}, {}, 400, "request 1, `k` is 31, but the catalogue has 30"),
    "items": ({"inputs": [{**SMALL, "k": limits.ITEMS}] * 2}, {}, 400, "add up to 20000"),
    "a tower": ({"inputs": [SMALL, {**SMALL, "tower": "gpt"}]}, {}, 400, '`tower` is "gpt"'),
    "a field": ({"inputs": [{**SMALL, "kk": SECRET}]}, {}, 400, "`kk` is not a field of a request, whose fields are h"),
    "an event": ({"inputs": [{"history": [{**EVENT, "price": 1}]}]}, {}, 400, "fields are parent_asin, timestamp"),
    "no history": ({"inputs": [{"k": 3}]}, {}, 400, "request 0, `history` is missing"),
    "a long id": ({"inputs": [{"history": [{**EVENT, "parent_asin": "x" * 9999}]}]}, {}, 400, "at most 256 characters"),
    "a time in s": ({"inputs": [{"history": [{**EVENT, "timestamp": 1391040000}]}]}, {}, 400, "outside the years"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_served_is_one_short_sentence_and_the_next_is_answered(service: Running, case: str) -> None:
    body, headers, expected, said = BAD[case]
    status, answer, _ = service.ask(body, **headers)
    assert (status, set(answer)) == (expected, {"error_code", "message"})
    assert said in answer["message"] and "\n" not in answer["message"] and len(answer["message"]) < 400
    assert SECRET not in answer["message"] and "Traceback" not in answer["message"]
    assert service.ask({"inputs": [SMALL]})[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/invocations", 405), ("POST", "/readyz", 405)]
)
def test_another_path_or_method_is_one_sentence_that_lists_the_paths(
    service: Running, method: str, path: str, status: int
) -> None:
    connection = service.connection()
    connection.request(method, path)
    response = connection.getresponse()
    assert response.status == status
    assert "/invocations" in json.loads(response.read())["message"]
    connection.close()


def test_another_host_is_refused_and_probes_are_not(service: Running) -> None:
    status, answer, _ = service.ask({"inputs": [SMALL]}, Host="evil.example")
    assert (status, "Host" in answer["message"]) == (400, True)
    assert service.ask(None, "/readyz", Host="10.0.0.7:8080")[0] == 200
    assert service.ask({"inputs": [SMALL]}, Host="LOCALHOST:1")[0] == 200
    assert service.ask({"inputs": [SMALL]}, Host="[::1]:8080")[0] == 200


def test_eight_threads_with_new_dates_are_answered_as_one(service: Running) -> None:
    def dated(thread: int, n: int) -> dict[str, Any]:
        made = request([1 + (thread + n + place) % 30 for place in range(4)], 5, "llm")
        for event in made["history"]:
            event["timestamp"] += (97 * thread + 13 * n) * 86_400_000
        return made

    calls = [[dated(thread, n) for n in range(6)] for thread in range(8)]
    answers: dict[int, Any] = {}

    def work(thread: int) -> None:
        answers[thread] = [service.ask({"inputs": [one]}) for one in calls[thread]]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for running in threads:
        running.start()
    for running in threads:
        running.join()
    for thread, asked in enumerate(calls):
        alone = service.ask({"inputs": asked})[1]["predictions"]
        for (status, body, _), right in zip(answers[thread], alone, strict=True):
            assert status == 200
            assert_same_answer(body["predictions"][0], right)


def test_large_bodies_beyond_a_sum_are_refused_and_small_calls_answered(service: Running) -> None:
    """As many as fill what may be held are on their way; what they are held for ends with their connections."""
    size = decode.BYTES - 2**10
    head = post(b"")[: -len(b"Content-Length: 0\r\n\r\n")] + b"Content-Length: %d\r\n\r\n" % size
    large = json.dumps({"inputs": [SMALL]}).encode() + b" " * 2**20

    def refused() -> bool:
        status, answer, headers = service.ask(large)
        assert status in (200, 429)
        if status == 429:
            assert answer["message"] == "too many large bodies are being read; try again in 1 s"
            assert headers["retry-after"] == "1"
        return status == 429

    before = service.metric('llmsrec_resident_bytes{process="service"}')
    with contextlib.ExitStack() as stack:
        for _ in range(2 * decode.HELD // decode.BYTES):  # half of them are too many
            client = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=60))
            client.sendall(head + b" " * (size - 1))
        assert refused() and service.ask({"inputs": [SMALL]})[0] == 200
        grown = service.metric('llmsrec_resident_bytes{process="service"}') - before
    assert grown < 2 * decode.HELD
    end = time.monotonic() + 30
    while refused():
        assert time.monotonic() < end
