"""The self-test of a version that has just been loaded, before it may serve: smoke requests, and parity of batches."""

import math
from typing import Any

START, DAY = 1_391_040_000_000, 86_400_000  # ms
REQUESTS, LENGTH = 4, 10
# What a score may differ by in company, as a share of the largest.
TOLERANCE = 1e-5
# A model that computes in 16 bits or fewer rounds at each of its layers, otherwise in each batch: thirty of them move
# scores by a tenth. An answer with half of its items is still of the same user.
ROUGH, COMMON = 0.2, 0.5


def requests(asins: list[str], tower: str) -> list[dict[str, Any]]:
    """Requests over the catalogue, each of another length, the last one with an item that nobody knows."""
    length = max(1, min(LENGTH, len(asins) // 2))
    made = []
    for number in range(REQUESTS):
        bought = [asins[(number * 7 + place) % len(asins)] for place in range(max(1, length - number))]
        if number == REQUESTS - 1:
            bought.append("an item that no catalogue has")
        events = [{"parent_asin": asin, "timestamp": START + place * DAY} for place, asin in enumerate(bought)]
        made.append({"history": events, "k": length, "tower": tower})
    return made


def problem(recommender: Any, parse: Any, asins: list[str], tower: str, exact: bool, repeats: bool) -> str | None:
    """What is wrong with a tower's answers, if anything is: alone, and in one batch.

    Args:
        exact: its model computes in float32.
        repeats: items of the history may be recommended again.
    """
    sent = requests(asins, tower)
    alone = [recommender.recommend(parse([request]))[0] for request in sent]
    together = recommender.recommend(parse(sent))
    for request, answer, other in zip(sent, alone, together, strict=True):
        items = [item.parent_asin for item in answer.items]
        bought = [event["parent_asin"] for event in request["history"]]
        known = set(bought) & set(asins)
        if len(set(items)) != min(request["k"], len(asins) - (0 if repeats else len(known))):
            return f"{tower}: {len(set(items))} items for `k` {request['k']}"
        if set(items) & known and not repeats:
            return f"{tower}: recommends an item of the history"
        if not all(math.isfinite(item.score) for item in answer.items):
            return f"{tower}: a score is not finite"
        if answer.used != len(known) or answer.fallback is not None:
            return f"{tower}: used {answer.used} of {len(bought)} items, fallback {answer.fallback}"
        slack = (TOLERANCE if exact else ROUGH) * max(1.0, *(abs(item.score) for item in answer.items))
        apart = max(abs(a.score - b.score) for a, b in zip(answer.items, other.items, strict=True))
        common = len(set(items) & {item.parent_asin for item in other.items})
        if apart > slack or (not exact and common < COMMON * len(items)):
            return f"{tower}: a request is answered otherwise in a batch than alone"
    return None
