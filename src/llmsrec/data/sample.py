"""The built-in sample: a made-up shop in the raw layout of Amazon Reviews 2023.

Two kinds of information about the next purchase are planted, and neither follows from popularity:

- order: a customer follows a route (a ring of kinds of product) in one direction, so the last two kinds tell the next.
  Routes cross, so that the same kinds in another order lead elsewhere, and half-way through the customer changes
  route, direction and favourite brand, so that an old purchase says little.
- text: the next item shares the favourite brand and the last item's attribute (colour, flavour, scent, shade), both of
  which its title names, as it names the kind; three of five items of each kind are rare, with little but their title.

Some purchases follow nothing (noise). The files have the dirt of real ones; `_reviews` and `_titles` list it.
"""

import gzip
import html
import json
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmsrec.files import atomic
from llmsrec.params import Sample

BRAND_BOOST = 15.0  # how much likelier an item of the favourite brand is than another of the same kind
ATTRIBUTE_BOOST = 5.0  # the same for the attribute of the item bought before
NOISE = 0.15  # share of purchases that follow no route; half of them are popular items
TAIL = 0.6  # share of each kind's items that are rare,
TAIL_RATE = 0.35  # bought so often, relative to the average item; the others follow Zipf's law with
ZIPF = 0.8  # this exponent
BELOW_CORE = 0.05  # share of users with two to four purchases
MEAN_LENGTH = 9.0
DAY_USERS = 0.3  # share of users whose times are whole days, several purchases a day
REPEATS = 0.03  # share of purchases that are reviewed once more, later
NO_META = 0.01  # share of items without a line in the items file
DISPLACED = 0.05  # share of lines that lie out of order

DAY = 86_400_000  # ms
FIRST_DAY, LAST_DAY = 17_897, 19_358  # 2019-01-01, 2023-01-01


@dataclass(frozen=True)
class Item:
    """A product; `weight` is its share of its kind's sales before taste, `title` is None where it is missing."""

    asin: str
    department: int
    kind: str
    brand: str
    attribute: str
    title: str | None
    weight: float


@dataclass(frozen=True)
class Purchase:
    """One line of the reviews file; `timestamp` in ms since epoch."""

    user: str
    item: int
    timestamp: int


@dataclass(frozen=True)
class Phase:
    """What a user follows for a while: a ring of kinds, a place on it, a direction (+1 or -1), a brand."""

    department: int
    route: Sequence[str]
    place: int
    direction: int
    brand: str

    def ahead(self) -> "Phase":
        return replace(self, place=(self.place + self.direction) % len(self.route))

    @property
    def kind(self) -> str:
        return self.route[self.place]


def generate(vocabulary: dict[str, Any], settings: Sample, folder: Path) -> None:
    """Write `Sample.jsonl.gz` (reviews) and `meta_Sample.jsonl.gz` (items) into `folder`.

    Equal arguments give equal files, to the byte.

    Raises:
        DataError: a file cannot be written.
    """
    rng = np.random.default_rng(settings.seed)
    items = _titles(_catalogue(vocabulary, settings.items, rng), vocabulary, rng)
    purchases = _purchases(vocabulary, items, settings.users, rng)
    _write(folder / "Sample.jsonl.gz", _reviews(vocabulary, items, purchases, rng))
    _write(folder / "meta_Sample.jsonl.gz", _meta(vocabulary, items, rng))


def _catalogue(vocabulary: dict[str, Any], count: int, rng: np.random.Generator) -> list[Item]:
    """`count` items; a kind that lies on two routes has twice as many as one that lies on one."""
    places = [
        (number, kind)
        for number, department in enumerate(vocabulary["departments"])
        for route in department["routes"]
        for kind in route
    ]
    kinds = [places[n % len(places)] for n in range(count)]
    asins = _codes(count, "B0", 8, rng)
    items: list[Item] = []
    for number, kind in dict.fromkeys(kinds):
        department = vocabulary["departments"][number]
        brands, attributes = list(department["brands"]), department["attributes"]
        size = kinds.count((number, kind))
        for rank, weight in enumerate(rng.permutation(_weights(size))):
            brand, attribute = brands[(rank + size) % len(brands)], attributes[rng.integers(len(attributes))]
            items.append(Item(asins[len(items)], number, kind, brand, attribute, None, float(weight)))
    return items


def _weights(size: int) -> np.ndarray:
    """`[size]` sales shares within a kind: Zipf's law for most, an equal small share for the tail."""
    tail = int(size * TAIL)
    head = np.arange(1, size - tail + 1) ** -ZIPF
    head *= (size - tail * TAIL_RATE) / head.sum()
    return np.concatenate([head, np.full(tail, TAIL_RATE)]) / size


def _titles(items: list[Item], vocabulary: dict[str, Any], rng: np.random.Generator) -> list[Item]:
    """Give each item a title; some are very long, hold HTML entities or a prompt's own tokens, or are missing."""
    hostile = vocabulary["hostile_titles"]
    hostile = dict(zip(rng.choice(len(items), len(hostile), replace=False).tolist(), hostile, strict=True))
    titled = []
    for number, item in enumerate(items):
        title = _title(item, vocabulary, rng)
        dirt = rng.random()
        if number in hostile:
            title = hostile[number] + title
        elif dirt < 0.01:
            title = str(rng.choice(["", "   ", "\N{NO-BREAK SPACE}"]))
        elif dirt < 0.02:
            titled.append(item)
            continue
        elif dirt < 0.05:
            title = ", ".join([title, *rng.permutation(vocabulary["claims"])])
        elif dirt < 0.15:
            title = html.escape(title.replace(" ", "  ", 1))
        titled.append(replace(item, title=title))
    return titled


def _title(item: Item, vocabulary: dict[str, Any], rng: np.random.Generator) -> str:
    """Brand, line, kind and attribute, and words that say nothing about what is bought next."""
    department = vocabulary["departments"][item.department]
    line = str(rng.choice(department["brands"][item.brand]))
    kind = str(rng.choice(department["kinds"][item.kind]))
    adjective, detail = str(rng.choice(vocabulary["adjectives"])), str(rng.choice(vocabulary["details"]))
    orders = [
        [f"{item.brand} {line} {kind}", item.attribute, detail],
        [f"{item.brand} {line} {item.attribute} {kind}", detail],
        [f"{item.brand} {adjective} {item.attribute} {kind}"],
        [f"{adjective} {kind} by {item.brand}", f"{line} {item.attribute}"],
    ]
    return ", ".join(orders[rng.integers(len(orders))])


def _purchases(vocabulary: dict[str, Any], items: list[Item], users: int, rng: np.random.Generator) -> list[Purchase]:
    """All users' purchases, each user's in order."""
    shelves: dict[tuple[int, str], list[int]] = {}
    for number, item in enumerate(items):
        shelves.setdefault((item.department, item.kind), []).append(number)
    popularity = np.array([item.weight for item in items])
    purchases = []
    for user in _codes(users, "A", 27, rng):
        below = rng.random() < BELOW_CORE
        length = int(rng.integers(2, 5)) if below else 6 + int(rng.poisson(MEAN_LENGTH - 6))
        basket = _basket(vocabulary, items, shelves, popularity / popularity.sum(), length, rng)
        times = _times(len(basket), rng)
        purchases += [Purchase(user, item, int(time)) for item, time in zip(basket, times, strict=True)]
    return purchases


def _basket(
    vocabulary: dict[str, Any],
    items: list[Item],
    shelves: dict[tuple[int, str], list[int]],
    popularity: np.ndarray,
    length: int,
    rng: np.random.Generator,
) -> list[int]:
    """The items that one user buys, in order, each once."""
    phase = _phase(vocabulary, None, rng)
    change = int(rng.integers(round(0.35 * length), round(0.65 * length) + 1))
    attribute = ""
    basket: list[int] = []
    for step in range(length):
        if step == change:
            phase = _phase(vocabulary, phase, rng)
        if rng.random() < NOISE:
            noise = popularity if rng.random() < 0.5 else np.full(len(items), 1 / len(items))
            choice = int(rng.choice(len(items), p=noise))
            if choice not in basket:
                basket.append(choice)
            continue
        shelf = [number for number in shelves.get((phase.department, phase.kind), []) if number not in basket]
        phase = phase.ahead()
        if shelf:
            weights = np.array([_appeal(items[number], phase.brand, attribute) for number in shelf])
            basket.append(shelf[rng.choice(len(shelf), p=weights / weights.sum())])
            attribute = items[basket[-1]].attribute
    return basket


def _appeal(item: Item, brand: str, attribute: str) -> float:
    return (
        item.weight
        * (BRAND_BOOST if item.brand == brand else 1)
        * (ATTRIBUTE_BOOST if item.attribute == attribute else 1)
    )


def _phase(vocabulary: dict[str, Any], before: Phase | None, rng: np.random.Generator) -> Phase:
    """A route other than the one before, a place and a direction on it, and a brand other than the one before."""
    routes = [
        (number, route)
        for number, department in enumerate(vocabulary["departments"])
        for route in department["routes"]
        if before is None or route != before.route
    ]
    department, route = routes[rng.integers(len(routes))]
    brands = [b for b in vocabulary["departments"][department]["brands"] if before is None or b != before.brand]
    place, direction = int(rng.integers(len(route))), int(rng.choice([-1, 1]))
    return Phase(department, route, place, direction, brands[rng.integers(len(brands))])


def _times(length: int, rng: np.random.Generator) -> np.ndarray:
    """`[length]` int64 ascending times in ms; whole days with ties for some users."""
    start = rng.integers(FIRST_DAY, LAST_DAY) * DAY + rng.integers(DAY)
    gaps = rng.exponential(12 * DAY, length).astype(np.int64)
    if rng.random() >= DAY_USERS:
        return start + np.cumsum(gaps + 1)
    return (start + np.cumsum(gaps * rng.integers(0, 2, length))) // DAY * DAY


def _reviews(
    vocabulary: dict[str, Any], items: list[Item], purchases: list[Purchase], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Lines of the reviews file, by time; some purchases are reviewed again, some lines lie out of order."""
    again = [replace(p, timestamp=p.timestamp + 30 * DAY) for p in purchases if rng.random() < REPEATS]
    lines = sorted(purchases + again, key=lambda purchase: purchase.timestamp)
    place = np.arange(len(lines), dtype=float)
    displaced = rng.random(len(lines)) < DISPLACED
    place[displaced] = rng.uniform(0, len(lines), displaced.sum())
    for index in np.argsort(place, kind="stable"):
        purchase = lines[index]
        opinion, other = rng.choice(vocabulary["opinions"], 2)
        yield {
            "rating": float(rng.choice([5, 5, 5, 5, 4, 4, 3, 2, 1])),
            "title": opinion,
            "text": f"{opinion} {other}",
            "images": [],
            "asin": items[purchase.item].asin,
            "parent_asin": items[purchase.item].asin,
            "user_id": purchase.user,
            "timestamp": purchase.timestamp,
            "helpful_vote": int(rng.poisson(0.3)),
            "verified_purchase": bool(rng.random() < 0.9),
        }


def _meta(vocabulary: dict[str, Any], items: list[Item], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Lines of the items file, in no order; one item in a hundred has none, a missing title is null or no field."""
    for index in rng.permutation(len(items)):
        item = items[index]
        if rng.random() < NO_META:
            continue
        department = vocabulary["departments"][item.department]
        line = {
            "main_category": department["main_category"],
            "title": item.title,
            "average_rating": round(float(rng.uniform(3, 5)), 1),
            "rating_number": int(rng.integers(1, 5000)),
            "features": [str(claim) for claim in rng.choice(vocabulary["claims"], 2, replace=False)],
            "description": [],
            "price": round(float(rng.lognormal(3, 0.6)), 2),
            "images": [],
            "videos": [],
            "store": item.brand,
            "categories": [department["name"], item.kind],
            "details": {department["attribute"]: item.attribute},
            "parent_asin": item.asin,
            "bought_together": None,
        }
        if item.title is None and rng.random() < 0.5:
            del line["title"]
        yield line


def _codes(count: int, prefix: str, length: int, rng: np.random.Generator) -> list[str]:
    """`count` different identifiers: `prefix` and `length` capitals and digits."""
    alphabet = np.array(list(string.ascii_uppercase + string.digits))
    codes: dict[str, None] = {}
    while len(codes) < count:
        codes[prefix + "".join(rng.choice(alphabet, length))] = None
    return list(codes)


def _write(path: Path, lines: Iterator[dict[str, Any]]) -> None:
    """Gzipped JSON lines; no name and no time in the header, so that equal lines are equal files."""
    with (
        atomic(path) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as handle,
    ):
        for line in lines:
            handle.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
