"""The registered version behind `mlflow models serve`: a real server, asked over HTTP."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import parse
from tests.answers import assert_same_answer
from tests.servers import mlflow_models_serve, post
from tests.service.conftest import request, serve

DAY = 86_400_000
HISTORY = [{"parent_asin": f"B{n}", "timestamp": 1_391_040_000_000 + n * DAY} for n in (3, 1, 4, 15, 9)]


@pytest.fixture(scope="module")
def url(registry: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("server") / "log"
    with mlflow_models_serve(registry.uri, "models:/llm-srec@candidate", log) as address:
        yield f"{address}/invocations"


def test_all_towers_answer_as_the_bundle_does(registry: Any, url: str) -> None:
    inputs = [{"history": HISTORY, "k": 7, "tower": tower} for tower in ("cf", "llm", "teacher")]
    inputs.append({"history": [{"parent_asin": "X1", "timestamp": 1_391_040_000_000}], "k": 2, "tower": "cf"})
    status, body = post(url, {"inputs": inputs})
    assert (status, set(body)) == (200, {"predictions"})
    for actual, answer in zip(
        body["predictions"], Recommender.load(registry.bundle).recommend(parse(inputs)), strict=True
    ):
        assert list(actual) == ["items", "used", "unknown", "fallback"]
        assert_same_answer(actual, answer.model_dump())
    assert body["predictions"][3] | {"items": None} == {
        "items": None, "used": 0, "unknown": ["X1"], "fallback": "popular"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": 0}, "`k` is 0: must be 1 or more"),
        ({"k": "5"}, '`k` is "5": must be a whole number'),
        ({"k": 31}, "`k` is 31, but the catalogue has 30 items"),
        ({"tower": "gpt"}, "must be one of llm, cf, teacher"),
        ({"history": [{"parent_asin": "B1", "timestamp": -5}]}, "`history.0.timestamp` is -5: outside the years 1990"),
        (
            {"history": [{"parent_asin": "B1", "timestamp": 1_391_040_000}]},
            "`history.0.timestamp` is 1391040000: outside the years 1990 to 2100; it must be ms since 1970",
        ),
        ({"history": [{"parent_asin": 7, "timestamp": 5}]}, "`history.0.parent_asin` is 7"),
        ({"history": None}, "`history` is null"),
        ({"kk": 5}, "`kk` is not a field of a request"),
    ],
)
def test_a_bad_request_is_a_400_that_names_the_field(url: str, change: dict, said: str) -> None:
    status, body = post(url, {"inputs": [{"history": HISTORY, "k": 3, "tower": "cf"} | change]})
    assert status == 400
    assert set(body) == {"error_code", "message"}
    assert body["message"].startswith("request 0, `")
    assert said in body["message"]
    assert "B15" not in body["message"], "what was sent is not sent back"


def test_a_request_without_a_history_is_a_400_and_one_of_many_is_named(url: str) -> None:
    status, body = post(url, {"inputs": [{"history": HISTORY, "tower": "cf"}, {"k": 3}]})
    assert (status, body["message"]) == (400, "request 1, `history` is missing")


@pytest.mark.parametrize("body", [b"{", b"[]", {"inputs": "B1"}, {"inputs": ["B1"]}, {"rows": []}])
def test_a_broken_body_is_a_400_without_a_traceback(url: str, body: Any) -> None:
    status, answer = post(url, body)
    assert status == 400
    assert "Traceback" not in json.dumps(answer)


def get(url: str) -> tuple[int, bytes, str]:
    with urllib.request.urlopen(url, timeout=60) as response:
        return response.status, response.read(), response.headers["content-type"]


def test_llmsrec_serve_and_mlflow_models_serve_give_equal_answers(registry: Any, url: str, tmp_path: Path) -> None:
    service = serve(registry, tmp_path, "--drain", "0", model="models:/llm-srec@candidate")
    try:
        service.until(lambda said: said["ready"])
        for path in ("ping", "health", "version"):
            assert get(f"http://127.0.0.1:{service.port}/{path}") == get(f"{url.rpartition('/')[0]}/{path}")
        assert get(f"http://127.0.0.1:{service.port}/version")[1].decode() == mlflow.__version__
        unknown = {"history": [{"parent_asin": "X1", "timestamp": 1_391_040_000_000}], "k": 2, "tower": "cf"}
        good: list[Any] = [request([n, n + 4, n + 9], 5, tower) for n in (1, 2, 3) for tower in ("cf", "llm")]
        wishes: list[Any] = [
            {"exclude_history": False, "explain": True, "diversity": 0.5}, {"allow": ["B2", "B6"], "block": ["B2"]},
            {"filter": {"category": ["Home"], "store": ["Shop 1"]}, "diversity": 1},
            {"history": [{"parent_asin": "B4"}, {"parent_asin": "B2"}]},
            {"history": [{"parent_asin": "B4", "timestamp": "2014-01-30"}]},
        ]  # fmt: skip
        options = [{**ask, **wish} for ask in good[:2] for wish in wishes]
        for inputs in (good, [*good[:2], unknown], [request([], 4)], [{"history": HISTORY}], options):
            (status, theirs), (ours_status, ours, _) = post(url, {"inputs": inputs}), service.ask({"inputs": inputs})
            assert status == ours_status == 200 and [*ours] == [*theirs] == ["predictions"]
            for first, second in zip(ours["predictions"], theirs["predictions"], strict=True):
                assert [*first] == [*second] and [*first["items"][0]] == [*second["items"][0]]
                assert_same_answer(first, second)
        bad: list[Any] = [{"k": 0}, {"k": "5"}, {"k": 31}, {"tower": "gpt"}, {"kk": 5}, {"history": None}]
        bad += [{"diversity": 2}, {"filter": {"brand": ["x"]}}, {"allow": "B1"}, {"block": [1]}, {"explain": 1}]
        for change in bad:
            inputs = [good[0], {"history": HISTORY, "k": 3, "tower": "cf"} | change]
            (status, theirs), (ours_status, ours, _) = post(url, {"inputs": inputs}), service.ask({"inputs": inputs})
            assert status == ours_status == 400 and ours["message"] == theirs["message"]
    finally:
        assert service.end() == 0, service.log.read_text()
