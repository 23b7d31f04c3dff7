"""What is promised of two answers to one request, from other batches, engines or processors (docs/registry.md)."""

from typing import Any

TOLERANCE = 1e-5  # of the largest score


def assert_same_answer(first: dict[str, Any], second: dict[str, Any]) -> None:
    """The same items with scores within TOLERANCE, in the same order but for items whose scores are that near."""
    assert first | {"items": None} == second | {"items": None}
    slack = TOLERANCE * max([1.0, *(abs(item["score"]) for item in first["items"])])
    assert len(first["items"]) == len(second["items"])
    scores = {item["parent_asin"]: item["score"] for item in second["items"]}
    for place, item in enumerate(first["items"]):
        other = second["items"][place]
        assert abs(item["score"] - other["score"]) <= slack, (place, item, other)
        if item["parent_asin"] in scores:  # else it is tied with what is last there
            assert abs(scores[item["parent_asin"]] - item["score"]) <= slack, (place, item, other)
            if item["parent_asin"] == other["parent_asin"]:
                assert item["title"] == other["title"]
        else:
            assert abs(item["score"] - second["items"][-1]["score"]) <= 2 * slack, (place, item)
