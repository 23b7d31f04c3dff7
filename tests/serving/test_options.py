"""What a request may ask for beside `k` and `tower`, against answers that are put together by hand."""

import dataclasses
import time
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from llmsrec.data.titles import UNTITLED
from llmsrec.engine.readout import read_out
from llmsrec.errors import RequestError
from llmsrec.serving import limits
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.neighbours import diverse
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import TOWERS, Similar, parse, parse_rank, parse_similar
from llmsrec.times import of_iso

START, DAY = 1_391_040_000_000, 86_400_000  # ms
BOUGHT = [5, 12, 7]


@pytest.fixture(scope="module")
def recommender(tiny: Any) -> Recommender:
    return Recommender.load(tiny.bundle)


def asked(tower: str = "cf", **options: Any) -> dict[str, Any]:
    events = [{"parent_asin": f"B{item}", "timestamp": START + n * DAY} for n, item in enumerate(BOUGHT)]
    return {"history": events, "k": 30, "tower": tower, **options}


def answer(recommender: Recommender, request: dict[str, Any]) -> dict[str, Any]:
    (answered,) = recommender.recommend(parse([request]))
    return answered.model_dump()


def ids(answered: dict[str, Any]) -> list[str]:
    return [item["parent_asin"] for item in answered["items"]]


def cosines(tiny: Any, tower: str) -> np.ndarray:
    """`[I, I]` between the vectors of the trained model."""
    with torch.no_grad():
        vectors = tiny.model.teacher.item_vectors() if tower == "teacher" else tiny.model.item_vectors()
    vectors = torch.nn.functional.normalize(vectors[1:], dim=1)
    return (vectors @ vectors.T).numpy()


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("history", [BOUGHT, []])
def test_lists_and_filters_against_leaving_out_by_hand(
    tiny: Any, recommender: Recommender, tower: str, history: list[int]
) -> None:
    base = asked(tower)
    base["history"] = [event for event in base["history"] if int(event["parent_asin"][1:]) in history]
    rows = {row["parent_asin"]: row for row in tiny.catalogue.to_dicts()}
    everything = answer(recommender, {**base, "exclude_history": False})
    assert len(everything["items"]) == 30
    bought = {f"B{item}" for item in history}
    some = [f"B{n}" for n in range(4, 20)] + ["X1", "B4"]
    cases: list[tuple[dict[str, Any], Any]] = [
        ({}, lambda row: row["parent_asin"] not in bought),
        ({"exclude_history": True}, lambda row: row["parent_asin"] not in bought),
        ({"allow": some}, lambda row: row["parent_asin"] in set(some) - bought),
        ({"block": some}, lambda row: row["parent_asin"] not in bought | set(some)),
        ({"allow": some, "block": ["B9"]}, lambda row: row["parent_asin"] in set(some) - bought - {"B9"}),
        ({"filter": {"store": ["Shop 1", "Shop 7"]}}, lambda row: row["store"] == "Shop 1"),
        ({"filter": {"category": ["Shelf 1", "Shelf 3"]}}, lambda row: {"Shelf 1", "Shelf 3"} & {*row["categories"]}),
        (
            {"filter": {"category": ["Shelf 2"], "store": ["Shop 2"]}, "exclude_history": False},
            lambda row: "Shelf 2" in row["categories"] and row["store"] == "Shop 2",
        ),
        ({"filter": {"category": ["Nowhere"]}}, lambda row: False),
        ({"filter": {}}, lambda row: True),
    ]
    for options, holds in cases:
        for k in (3, 30):
            actual = answer(recommender, {**base, **options, "k": k})
            keep = set() if options.get("exclude_history") is False else bought
            expected = [item for item in everything["items"] if holds(rows[item["parent_asin"]])]
            expected = [item for item in expected if item["parent_asin"] not in keep][:k]
            assert ids(actual) == [item["parent_asin"] for item in expected], (options, k)
            np.testing.assert_allclose(
                [item["score"] for item in actual["items"]], [item["score"] for item in expected], rtol=1e-4, atol=1e-4
            )
            assert actual.get("unknown_candidates") == (["X1"] if "allow" in options else None)


@pytest.mark.parametrize("tower", TOWERS)
def test_diversity_against_the_formula_over_all_scores(tiny: Any, recommender: Recommender, tower: str) -> None:
    everything = answer(recommender, asked(tower))
    order = np.array([int(asin[1:]) - 1 for asin in ids(everything)])
    scores, alike = np.array([item["score"] for item in everything["items"]]), cosines(tiny, tower)
    with torch.no_grad():
        vectors = (tiny.model.teacher.item_vectors() if tower == "teacher" else tiny.model.item_vectors())[1:]
    directions = torch.nn.functional.normalize(vectors, dim=1).numpy()[order]
    means = []
    for diversity in (0.0, 0.5, 1.0):
        actual = answer(recommender, asked(tower, diversity=diversity, k=5))
        assert ids(actual) == [f"B{order[place] + 1}" for place in diverse(scores, directions, 5, diversity)]
        places = [int(asin[1:]) - 1 for asin in ids(actual)]
        means.append(float(np.mean([alike[i, j] for i in places for j in places if i < j])))
    assert means[2] < means[0], "a diverse list is less alike"
    assert ids(answer(recommender, asked(tower, diversity=0, k=5))) == ids(everything)[:5]


@pytest.mark.parametrize("tower", TOWERS)
def test_each_item_is_explained_by_the_nearest_of_the_history(tiny: Any, recommender: Recommender, tower: str) -> None:
    alike = cosines(tiny, tower)
    actual = answer(recommender, asked(tower, explain=True, k=6))
    for item in actual["items"]:
        near = {other: alike[int(item["parent_asin"][1:]) - 1, other - 1] for other in BOUGHT}
        because = item["because"]
        assert because["parent_asin"] == f"B{max(near, key=near.__getitem__)}"
        assert because["title"] == f"Bottle no {because['parent_asin'][1:]} of rose water"
        assert because["similarity"] == pytest.approx(max(near.values()), abs=1e-5)
    plain = answer(recommender, asked(tower, k=6))
    assert ids(plain) == ids(actual) and not any("because" in item for item in plain["items"])
    unknown = {"history": [{"parent_asin": "X"}], "explain": True, "tower": tower}
    assert not any("because" in item for item in answer(recommender, unknown)["items"])


@pytest.mark.parametrize("tower", TOWERS)
def test_times_of_iso_are_those_in_ms_and_without_times_the_order_counts(recommender: Recommender, tower: str) -> None:
    in_ms = asked(tower)
    in_iso = asked(tower)
    for event, text in zip(
        in_iso["history"], ("2014-01-30", "2014-01-31T01:00+01:00", "2014-02-01 00:00Z"), strict=True
    ):
        event["timestamp"] = text
    assert answer(recommender, in_iso) == answer(recommender, in_ms)
    untimed = {**in_ms, "history": [{"parent_asin": f"B{item}"} for item in BOUGHT]}
    now = int(time.time() * 1000)
    timed = {**in_ms, "history": [{"parent_asin": f"B{item}", "timestamp": now} for item in BOUGHT]}
    assert answer(recommender, untimed) == answer(recommender, timed)
    backward = answer(recommender, {**untimed, "history": untimed["history"][::-1]})
    assert backward["items"] != answer(recommender, untimed)["items"]
    nothing = {**untimed, "history": [{"parent_asin": f"B{item}", "timestamp": None} for item in BOUGHT]}
    assert answer(recommender, nothing) == answer(recommender, untimed)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01", 0), ("2014-01-30T00:00:00Z", START), ("2014-01-30T02:30+02:30", START),
        ("2014-01-30 00:00:00.123", START + 123), ("2014-01-30T00:00:00.123999Z", START + 123), ("2014", None),
        ("2014-02-30", None), ("2014-01-30T25:00", None), ("1391040000000", None), ("2014-01-30x10:00", None),
        ("2014-01-30T", None), ("\u0662014-01-30", None), ("0000-01-01", None), ("", None), ("20140130", None),
    ],
)  # fmt: skip
def test_a_time_of_iso_is_read_in_full_or_not_at_all(text: str, ms: int | None) -> None:
    assert of_iso(text) == ms


@pytest.mark.parametrize("tower", TOWERS)
def test_candidates_are_ranked_as_the_whole_catalogue_ranks_them(recommender: Recommender, tower: str) -> None:
    candidates = ["B9", "X2", "B5", "B30", "B1", "B9", *(f"X{n}" for n in range(3, 40))]
    base = {"history": asked()["history"], "tower": tower, "candidates": candidates}
    (actual,) = recommender.recommend([parse_rank(base)])
    whole = answer(recommender, asked(tower, exclude_history=False))
    assert ids(actual.model_dump()) == [asin for asin in ids(whole) if asin in candidates]
    assert actual.unknown_candidates == ["X2", *(f"X{n}" for n in range(3, 40))]


def test_items_like_one_against_all_cosines(tiny: Any, recommender: Recommender) -> None:
    alike = cosines(tiny, "llm")
    for item in (1, 17, 30):
        actual = recommender.similar(parse_similar({"parent_asin": f"B{item}", "k": 30})).model_dump()
        row = alike[item - 1].copy()
        row[item - 1] = -2
        assert ids(actual) == [f"B{n + 1}" for n in np.argsort(-row, kind="stable")[:29]]
        np.testing.assert_allclose([i["score"] for i in actual["items"]], np.sort(row)[::-1][:29], atol=1e-5)
    options = {"k": 4, "filter": {"store": ["Shop 1"]}, "block": ["B4"]}
    some = recommender.similar(parse_similar({"parent_asin": "B1", **options})).model_dump()
    shop = {row["parent_asin"] for row in tiny.catalogue.to_dicts() if row["store"] == "Shop 1"} - {"B1", "B4"}
    row = {asin: alike[0, int(asin[1:]) - 1] for asin in shop}
    assert ids(some) == sorted(row, key=row.__getitem__, reverse=True)[:4]


def test_items_like_a_title_against_the_plain_item_prompt(tiny: Any, recommender: Recommender) -> None:
    """A title of the catalogue is read with the embedding of the item that has it, so as that item."""
    model = tiny.model
    with torch.no_grad():
        prompt, table = model.prompts.items(np.array([7])), model.teacher.item_vectors()
        hidden = read_out(model.backbone, prompt, lambda slots: model.f_I(table[slots]), model.item_out)
        vector = model.f_item(hidden)
        expected = torch.nn.functional.cosine_similarity(vector, model.item_vectors()[1:]).numpy()
    assert expected.argmax() == 6
    actual = recommender.similar(parse_similar({"title": "Bottle no 7 of rose water", "k": 30})).model_dump()
    assert ids(actual) == [f"B{n + 1}" for n in np.argsort(-expected, kind="stable")]
    np.testing.assert_allclose([item["score"] for item in actual["items"]], np.sort(expected)[::-1], atol=1e-4)
    escaped = recommender.similar(parse_similar({"title": " Bottle&nbsp;no 7 of  rose water", "k": 30}))
    assert escaped.model_dump() == actual
    odd = recommender.similar(Similar(title="</s> \u732b \U0001f431 [UserOut]", k=3))
    assert len(odd.items) == 3


def test_requests_of_both_kinds_are_answered_in_their_order(recommender: Recommender) -> None:
    (request,), similar = parse([asked(k=3)]), parse_similar({"parent_asin": "B3", "k": 2})
    actual = recommender.answer([similar, request, similar])
    assert actual == [recommender.similar(similar), recommender.recommend([request])[0], recommender.similar(similar)]


def test_a_filter_that_no_item_of_an_older_catalogue_could_pass_is_refused(tiny: Any) -> None:
    bundle = Bundle.open(tiny.bundle)
    recommender = Recommender(dataclasses.replace(bundle, items=bundle.items.drop("store", "categories")))
    for name in ("store", "category"):
        with pytest.raises(RequestError, match=rf"request 1, `filter\.{name}` is given, but no item of this model"):
            recommender.recommend(parse([asked(), asked(filter={name: ["Home"]})]))
        with pytest.raises(RequestError, match=rf"the request, `filter\.{name}` is given"):
            recommender.similar(parse_similar({"parent_asin": "B1", "filter": {name: ["Home"]}}))


MANY = [f"B{n}" for n in range(limits.LISTED)]
BAD = {
    "half exclude": ({"exclude_history": "no"}, '`exclude_history` is "no"'),
    "no list": ({"allow": "B1"}, '`allow` is "B1": must be a list'),
    "an empty list": ({"allow": []}, r"`allow` is \[\]: must have 1 or more entries"),
    "a number": ({"block": ["B1", 2]}, "`block.1` is 2"),
    "a long list": ({"block": [*MANY, "B"]}, "`block` is .*at most 10000 entries"),
    "another column": ({"filter": {"brand": ["x"]}}, "not a field of a filter, whose fields are category, store"),
    "a text": ({"filter": {"store": "x"}}, '`filter.store` is "x": must be a list'),
    "no value": ({"filter": {"store": []}}, "must have 1 or more entries"),
    "too diverse": ({"diversity": 1.1, "k": 3}, "`diversity` is 1.1: must be 1 or less"),
    "NaN": ({"diversity": float("nan"), "k": 3}, "`diversity` is NaN"),
    "true": ({"diversity": True, "k": 3}, "`diversity` is true"),
    "many diverse": ({"diversity": 0.1, "k": 101}, "`diversity` is 0.1: with it, `k` is at most 100"),
    "explain": ({"explain": 1}, "`explain` is 1"),
    "some times": ({"history": [{"parent_asin": "B1"}, asked()["history"][0]]}, "0.timestamp` is missing; give each"),
    "no time": ({"history": [{"parent_asin": "B1", "timestamp": "now"}]}, '"now": must be ms since 1970, or a date'),
    "early": ({"history": [{"parent_asin": "B1", "timestamp": "1969-01-01"}]}, "outside the years 1990 to 2100"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_option_that_cannot_be_meant_is_one_line(case: str) -> None:
    change, expected = BAD[case]
    with pytest.raises(RequestError, match=f"^request 0, .*{expected}") as caught:
        parse([asked() | change])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_lists_of_a_call_have_a_limit_together() -> None:
    requests = parse([asked(block=MANY)] * 5)
    limits.check_sums(requests)
    with pytest.raises(RequestError, match="of 6 requests hold 50001 ids, and 50000 are the most"):
        limits.check_sums([*requests, *parse([asked(allow=["B1"])])])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "the request, one of `parent_asin` and `title` must be given, and not both"),
        ({"parent_asin": "B1", "title": "x"}, "one of `parent_asin` and `title`"),
        ({"title": ""}, "`title` is"),
        ({"title": "N/A"}, '`title` is "N/A", which names nothing'),
        ({"title": "&nbsp;\u200b"}, "which names nothing"),
        ({"title": " \t "}, "must have a character that is no space"),
        ({"title": "x" * 1001}, "at most 1000 characters"),
        ({"titel": "x"}, "`titel` is not a field of a request to /similar, whose fields are parent_asin, title, k,"),
        ({"parent_asin": "X9"}, '`parent_asin` is "X9", which the catalogue does not have; ask by the item\'s `title`'),
        ({"parent_asin": "B1", "k": 31}, "`k` is 31, but the catalogue has 30 items"),
        ([], "`the whole` is"),
    ],
)
def test_a_bad_request_for_items_like_one_is_one_line(recommender: Recommender, value: Any, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        recommender.similar(parse_similar(value))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"candidates": []}, "`candidates` is []"),
        ({"candidates": None}, "`candidates` is null"),
        ({"tower": "gpt"}, "must be one of llm, cf, teacher"),
        ({"k": 3}, "`k` is not a field of a request to /rank, whose fields are history, candidates, tower, explain"),
    ],
)
def test_a_bad_request_to_rank_is_one_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_rank({"history": asked()["history"], "candidates": ["B1"]} | change)
    assert said in str(caught.value)


def test_an_item_without_a_title_comes_last_in_a_diverse_list_too(tiny: Any, recommender: Recommender) -> None:
    best, second = ids(answer(recommender, asked(k=2)))
    bundle = Bundle.open(tiny.bundle)
    title = pl.when(pl.col("parent_asin") == best).then(pl.lit(UNTITLED)).otherwise("title").alias("title")
    changed = Recommender(dataclasses.replace(bundle, items=bundle.items.with_columns(title)))
    shown = ids(answer(changed, asked(diversity=0.5, k=30)))
    assert (shown[0], shown[-1], len(shown)) == (second, best, 27)
    assert best not in ids(answer(changed, asked(diversity=1.0, k=26)))
    near = changed.similar(parse_similar({"parent_asin": second, "k": 29}))
    assert near.items[-1].parent_asin == best
