"""The sample holds what its module promises: order, text, a tail, drift, noise and dirt."""

import gzip
import json
import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from llmsrec.data import sample
from llmsrec.params import Sample

VOCABULARY = json.loads((Path(__file__).parents[2] / "stages/sources/sample.json").read_text(encoding="utf-8"))
SETTINGS = Sample(users=1600, items=1000, seed=7)
REVIEW_FIELDS = {"rating", "title", "text", "images", "asin", "parent_asin", "user_id", "timestamp", "helpful_vote"}
REVIEW_FIELDS |= {"verified_purchase"}
META_FIELDS = {
    "main_category",
    "title",
    "average_rating",
    "rating_number",
    "features",
    "description",
    "price",
    "images",
}
META_FIELDS |= {"videos", "store", "categories", "details", "parent_asin", "bought_together"}


def read(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]


@dataclass
class World:
    """What the files say; kinds, brands and attributes come from fields that the pipeline does not carry further."""

    reviews: list[dict]
    meta: dict[str, dict]
    histories: list[list[str]] = field(default_factory=list)  # of the users that the five-core leaves, in order
    counts: Counter = field(default_factory=Counter)

    def kind(self, item: str) -> str:
        return self.meta[item]["categories"][1] if item in self.meta else ""

    def brand(self, item: str) -> str:
        return self.meta[item]["store"] if item in self.meta else item

    def attribute(self, item: str) -> str:
        return next(iter(self.meta[item]["details"].values())) if item in self.meta else item

    def words(self, item: str) -> set[str]:
        return set(re.findall(r"\w+", (self.meta.get(item, {}).get("title") or "").lower()))

    def cold(self) -> set[str]:
        ranked = sorted(self.counts, key=lambda item: (self.counts[item], item))
        return set(ranked[: int(0.35 * len(ranked))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    sample.generate(VOCABULARY, SETTINGS, folder)
    return folder


@pytest.fixture(scope="module")
def world(folder):
    reviews = read(folder / "Sample.jsonl.gz")
    meta = {line["parent_asin"]: line for line in read(folder / "meta_Sample.jsonl.gz")}
    events = pl.DataFrame(reviews, schema={"user_id": pl.Utf8, "parent_asin": pl.Utf8, "timestamp": pl.Int64})
    events = events.sort("timestamp", maintain_order=True).unique(
        ["user_id", "parent_asin"], keep="first", maintain_order=True
    )
    while True:
        kept = events.filter(pl.len().over("user_id") >= 5).filter(pl.len().over("parent_asin") >= 5)
        if len(kept) == len(events):
            break
        events = kept
    histories = events.group_by("user_id", maintain_order=True).agg("parent_asin")["parent_asin"].to_list()
    return World(reviews, meta, histories, Counter(item for history in histories for item in history))


def test_equal_settings_give_equal_bytes(tmp_path):
    small = Sample(users=60, items=150, seed=1)
    digests = []
    for name, settings in (("a", small), ("b", small), ("c", small.model_copy(update={"seed": 2}))):
        sample.generate(VOCABULARY, settings, tmp_path / name)
        digests.append([(tmp_path / name / file).read_bytes() for file in ("Sample.jsonl.gz", "meta_Sample.jsonl.gz")])
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[2][0] and digests[0][1] != digests[2][1]


@pytest.mark.parametrize(("users", "items"), [(50, 150), (300, 200), (60, 1000)])
def test_asked_numbers_of_users_and_items(tmp_path, users, items):
    sample.generate(VOCABULARY, Sample(users=users, items=items, seed=3), tmp_path)
    reviews, meta = read(tmp_path / "Sample.jsonl.gz"), read(tmp_path / "meta_Sample.jsonl.gz")
    assert len({line["user_id"] for line in reviews}) == users
    assert items * 0.96 <= len({line["parent_asin"] for line in meta}) == len(meta) <= items


def test_layout_is_that_of_amazon_reviews_2023(world):
    assert all(set(line) == REVIEW_FIELDS for line in world.reviews)
    assert {frozenset(line) for line in world.meta.values()} == {
        frozenset(META_FIELDS),
        frozenset(META_FIELDS - {"title"}),
    }
    assert all(10**12 < line["timestamp"] < 2 * 10**12 and 1 <= line["rating"] <= 5 for line in world.reviews)


def test_five_core_leaves_enough(world):
    lengths = [len(history) for history in world.histories]
    assert 1400 <= len(lengths) <= 1600
    assert 700 <= len(world.counts) <= 900
    assert 8 <= np.mean(lengths) <= 10 and np.quantile(lengths, 0.9) >= 11


def test_a_third_of_the_items_is_cold_and_the_head_is_zipf_like(world):
    counts = np.sort(list(world.counts.values()))[::-1]
    assert max(world.counts[item] for item in world.cold()) <= 8
    assert counts[: len(counts) // 10].sum() > 0.25 * counts.sum()
    assert counts[0] > 5 * np.median(counts)


def transitions(world, histories, context):
    """(kinds of the last `context` items, kind of the next) over all places in all histories."""
    for history in histories:
        kinds = [world.kind(item) for item in history]
        for place in range(context, len(kinds)):
            yield tuple(kinds[place - context : place]), kinds[place]


def accuracy(world, histories, context):
    """Share of next kinds that the most frequent follower names; followers counted on the other half of the users."""
    followers = defaultdict(Counter)
    for before, kind in transitions(world, histories[::2], context):
        followers[before][kind] += 1
    guesses = [
        (followers[b].most_common(1)[0][0] if b in followers else "") == kind
        for b, kind in transitions(world, histories[1::2], context)
    ]
    return np.mean(guesses)


def information(pairs):
    """Mutual information in bits between the two sides of pairs."""
    pairs = Counter(pairs)
    left, right, total = Counter(), Counter(), sum(pairs.values())
    for (a, b), count in pairs.items():
        left[a] += count
        right[b] += count
    return sum(n / total * math.log2(n * total / (left[a] * right[b])) for (a, b), n in pairs.items())


def shuffled(histories, seed=0):
    rng = np.random.default_rng(seed)
    return [[history[place] for place in rng.permutation(len(history))] for history in histories]


def test_order_tells_the_next_kind_and_a_shuffle_destroys_it(world):
    chance = Counter(world.kind(item) for history in world.histories for item in history).most_common(1)[0][1]
    chance /= sum(map(len, world.histories))
    mixed = shuffled(world.histories)
    one, two = accuracy(world, world.histories, 1), accuracy(world, world.histories, 2)
    assert one > 5 * chance and two > 1.3 * one
    assert accuracy(world, mixed, 1) < one / 2 and accuracy(world, mixed, 2) < two / 3
    ordered = information(transitions(world, world.histories, 1))
    assert ordered > information(transitions(world, mixed, 1)) + 0.5


def test_the_same_two_kinds_in_the_other_order_lead_elsewhere(world):
    followers = defaultdict(Counter)
    for before, kind in transitions(world, world.histories, 2):
        followers[before][kind] += 1
    both = [pair for pair in followers if followers[pair].total() >= 20 and followers[pair[::-1]].total() >= 20]
    assert len(both) >= 50
    for pair in both:
        assert followers[pair].most_common(1)[0][0] != followers[pair[::-1]].most_common(1)[0][0]


def test_next_title_shares_words_with_the_last(world):
    rng = np.random.default_rng(1)
    items = sorted(world.counts)
    last, other = [], []
    for history in world.histories:
        after = world.words(history[-1])
        last.append(len(after & world.words(history[-2])))
        other.append(len(after & world.words(items[rng.integers(len(items))])))
    assert np.mean(last) > 2 * np.mean(other)


def test_title_names_kind_brand_and_attribute(world):
    for line in world.meta.values():
        title = sample.html.unescape(line.get("title") or "").replace("  ", " ")
        if title.strip():
            department = next(d for d in VOCABULARY["departments"] if d["name"] == line["categories"][0])
            assert any(phrase in title for phrase in department["kinds"][line["categories"][1]])
            assert line["store"] in title and next(iter(line["details"].values())) in title


def test_taste_drifts(world):
    """The brand of the item before is a better guess than that of the first one."""
    near = np.mean([world.brand(history[-1]) == world.brand(history[-2]) for history in world.histories])
    far = np.mean([world.brand(history[-1]) == world.brand(history[0]) for history in world.histories])
    assert near > 0.3 and far < near / 3


def rule(world, history):
    """A score that knows how the sample is made: the kind that follows the last two, the last brand and attribute."""
    neighbours = defaultdict(set)
    ahead = {}
    for department in VOCABULARY["departments"]:
        for route in department["routes"]:
            for place, kind in enumerate(route):
                before, after = route[place - 1], route[(place + 1) % len(route)]
                neighbours[kind] |= {before, after}
                ahead[before, kind], ahead[after, kind] = after, before
    last, previous = history[-1], history[-2]
    expected = ahead.get((world.kind(previous), world.kind(last)))
    if expected is None and len(history) > 2:  # one of the two was noise
        expected = ahead.get((world.kind(history[-3]), world.kind(previous)))

    def score(item):
        kind = 60 if world.kind(item) == expected else 6 if world.kind(item) in neighbours[world.kind(last)] else 1
        brand = 6 if world.brand(item) == world.brand(last) else 2 if world.brand(item) == world.brand(previous) else 1
        attribute = 4 if world.attribute(item) == world.attribute(last) else 1
        return kind * brand * attribute * math.sqrt(world.counts[item])

    return score


def ndcg_10(world, scorer, histories, users):
    """Mean uni99 NDCG@10 of the last item of `users`; ties count against it."""
    items, rng, gains = sorted(world.counts), np.random.default_rng(99), []
    for user, history in enumerate(world.histories):
        own = set(history)
        negatives = [item for item in (items[n] for n in rng.permutation(len(items))[:130]) if item not in own][:99]
        if user in users:
            score = scorer(histories[user][:-1])
            rank = sum(score(item) >= score(history[-1]) for item in negatives)
            gains.append(1 / math.log2(rank + 2) if rank < 10 else 0)
    return float(np.mean(gains))


def test_rule_ranks_the_last_item_and_a_shuffle_undoes_it(world):
    everybody, cold = range(len(world.histories)), world.cold()
    mixed = [
        [*history, full[-1]]
        for history, full in zip(shuffled([h[:-1] for h in world.histories]), world.histories, strict=True)
    ]
    of_cold = {user for user in everybody if world.histories[user][-1] in cold}
    known = ndcg_10(world, lambda history: rule(world, history), world.histories, everybody)
    unordered = ndcg_10(world, lambda history: rule(world, history), mixed, everybody)
    popular = ndcg_10(world, lambda history: world.counts.__getitem__, world.histories, everybody)
    known_cold = ndcg_10(world, lambda history: rule(world, history), world.histories, of_cold)
    popular_cold = ndcg_10(world, lambda history: world.counts.__getitem__, world.histories, of_cold)
    assert 0.6 <= known <= 0.75 and popular < 0.2
    assert unordered < 0.75 * known
    assert known_cold > 0.4 and popular_cold < 0.05
    assert len(of_cold) > 100


def test_dirt_of_real_files(world):
    days = [line["timestamp"] for line in world.reviews]
    assert sum(a > b for a, b in pairwise(days)) > 0.02 * len(days)
    times = Counter((line["user_id"], line["timestamp"]) for line in world.reviews)
    assert 0.05 < sum(n for n in times.values() if n > 1) / len(days) < 0.4
    pairs = Counter((line["user_id"], line["parent_asin"]) for line in world.reviews)
    assert 0.01 < sum(n > 1 for n in pairs.values()) / len(pairs) < 0.05
    assert min(Counter(line["user_id"] for line in world.reviews).values()) < 5
    assert min(Counter(line["parent_asin"] for line in world.reviews).values()) < 5
    assert any(item not in world.meta for item in world.counts)


def test_dirt_of_real_titles(world):
    lines = world.meta.values()
    titles = [line["title"] for line in lines if line.get("title")]
    assert any("title" not in line for line in lines) and any(line.get("title", "") is None for line in lines)
    assert any(line.get("title") == "" for line in lines) and any(title.isspace() for title in titles)
    assert all(any(entity in title for title in titles) for entity in ("&amp;", "&#x27;", "&quot;"))
    assert max(map(len, titles)) > 300 and any(not title.isascii() for title in titles)
    assert all(any(hostile in title for title in titles) for hostile in VOCABULARY["hostile_titles"])


def test_vocabulary_is_sound():
    """Routes are rings over known kinds; where two cross, they come from and go to different kinds."""
    names = [name for d in VOCABULARY["departments"] for name in [*d["kinds"], *d["brands"], *d["attributes"]]]
    assert len(names) == len(set(names))
    for department in VOCABULARY["departments"]:
        beside = defaultdict(list)
        for route in department["routes"]:
            assert len(route) == len(set(route)) and set(route) <= set(department["kinds"])
            for place, kind in enumerate(route):
                beside[kind] += [route[place - 1], route[(place + 1) % len(route)]]
        assert set(beside) == set(department["kinds"])
        assert all(len(kinds) == len(set(kinds)) for kinds in beside.values())
        assert sum(len(kinds) == 4 for kinds in beside.values()) == 4
