"""uni19: 20 distinct titles, none that the user knows but the positive's, stored with their order."""

import shutil
from collections import Counter

import numpy as np
import polars as pl
import pytest

from llmsrec.data import choices, split
from llmsrec.data.choices import COUNT, NEGATIVES, Choices, Titles, draw
from llmsrec.data.titles import normalised
from llmsrec.errors import DataError
from tests.data.test_candidates import blocks, histories

WORDS = ("soap", "tent", "lamp", "mug", "pen")
# Items 1..50: 30 distinct titles, of which 20 belong to two items; the second spells it otherwise.
TITLED = [f"{WORDS[k % 5]} &amp; {k}" for k in range(30)] + [f" {WORDS[k % 5].upper()}  & {k}\n" for k in range(20)]


def slow_titles(titles):
    return normalised(pl.Series(titles)).to_list()


def users(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.permutation(np.arange(1, 51))[: rng.integers(3, 9)].tolist() for _ in range(count)]


def written(path, of_users, size=None):
    sequences = histories(of_users)
    choices.write(path, lambda: blocks(sequences, size), Titles.of(TITLED), 7)
    return pl.read_parquet(path)


def test_no_candidate_has_a_title_that_the_user_knows_or_another_candidate_has(tmp_path):
    of_users, titles = users(200), slow_titles(TITLED)
    frame = written(tmp_path / "a.parquet", of_users)
    assert frame["user_id"].to_list() == [*range(1, 201)] * 2
    for user, of_split, item, negatives, place in frame.rows():
        history = of_users[user - 1]
        assert item == history[-2 if of_split == "valid" else -1]
        assert len({titles[i - 1] for i in negatives} | {titles[item - 1]}) == COUNT
        assert not {titles[i - 1] for i in negatives} & {titles[i - 1] for i in history}
        assert 0 <= place < COUNT


def test_the_file_does_not_depend_on_how_users_are_cut_into_blocks(tmp_path, monkeypatch):
    of_users = users(50)
    frame = written(tmp_path / "a.parquet", of_users)
    monkeypatch.setattr(choices, "CHUNK", 7)
    assert written(tmp_path / "b.parquet", of_users, 9).equals(frame)


def test_every_place_and_every_item_of_a_title_is_equally_likely():
    known = Titles.of(TITLED).known(histories([[1, 2, 3]]))
    rngs = [np.random.default_rng(k) for k in range(3)]
    places, seen = Counter(), Counter()
    for _ in range(2_000):
        drawn = draw(Titles.of(TITLED), known, np.array([1]), np.array([3]), rngs)
        places.update(drawn.places.tolist())
        seen.update(drawn.negatives.ravel().tolist())
        assert drawn.items[0, drawn.places[0]] == 3
    assert set(places) == set(range(COUNT))
    assert max(places.values()) < 150 and min(places.values()) > 60
    assert not {1, 2, 3, 31, 32, 33} & set(seen), "items of known titles"
    assert seen[4] + seen[34] == pytest.approx(seen[24], rel=0.1), "two items with one title, and one by itself"


def test_negatives_are_shown_in_random_order_so_that_the_positive_does_not_stand_out(tmp_path):
    frame = written(tmp_path / "a.parquet", users(100))
    rising = [(np.diff(row) > 0).mean() for row in frame["negatives"].to_list()]
    assert np.mean(rising) == pytest.approx(0.5, abs=0.05)


def test_reading_puts_the_positive_in_its_place(tmp_path):
    frame = written(tmp_path / "a.parquet", users(30)).filter(split="test")
    who, read = choices.read(tmp_path / "a.parquet", "test")
    assert who.tolist() == frame["user_id"].to_list()
    for row, (_, _, item, negatives, place) in enumerate(frame.rows()):
        assert read.items[row].tolist() == [*negatives[:place], item, *negatives[place:]]
    assert read.negatives.tolist() == frame["negatives"].to_list()
    some = read.rows(np.array([4, 2]))
    assert some.items.tolist() == read.items[[4, 2]].tolist()
    with pytest.raises(DataError, match=r"none\.parquet is not there; `dvc repro -f baselines"):
        choices.read(tmp_path / "none.parquet", "test")
    (tmp_path / "half.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(DataError, match=r"half\.parquet cannot be read as parquet: .*; `dvc repro -f baselines"):
        choices.read(tmp_path / "half.parquet", "test")


def test_putting_in_equals_inserting():
    negatives = np.arange(100, 112).reshape(3, 4)
    put = Choices.put_in(np.array([1, 2, 3]), negatives, np.array([0, 2, 4]))
    slow = [np.insert(row, k, p).tolist() for row, k, p in zip(negatives, [0, 2, 4], [1, 2, 3], strict=True)]
    assert put.items.tolist() == slow


@pytest.mark.parametrize("same", [" Soap &amp; 3", "SOAP & 3", "soap\t&#38;  3", "so\u00adap & 3"])
def test_titles_that_differ_in_case_spaces_and_entities_are_one(same):
    assert slow_titles([same]) == slow_titles(["Soap & 3"])
    distinct = [f"title {k}" for k in range(20)]
    numbered = Titles.of([*distinct, "Soap & 3", same]).of_item
    assert numbered[21] == numbered[22]
    assert len(set(numbered.tolist())) == 22


def test_fewer_than_20_distinct_titles_are_one_clear_error():
    few = [f"title {k}" for k in range(19)]
    with pytest.raises(DataError, match=r"the catalogue has 19 distinct titles, .* chooses from 20; bring more items"):
        Titles.of(few * 5)
    assert len(Titles.of([*few, "another"]).sizes) == 21


def test_a_user_who_knows_too_many_titles_is_named_and_the_file_before_stays(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_text("before")
    with pytest.raises(DataError, match=r"user 2 has events with items of 12 of the 30 distinct titles, so only 18"):
        written(path, [[1, 2, 3], [*range(1, 13), 31]])
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small catalogue, split and uni19 as the stages write them."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "filtered").mkdir()
    rows = [(u, i, 10 * u + k) for u, items in enumerate(users(20), start=1) for k, i in enumerate(items)]
    schema = {"user_id": pl.Int32, "item_id": pl.Int32, "timestamp": pl.Int64}
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(folder / "filtered/interactions.parquet")
    items = pl.DataFrame({"item_id": range(1, 51), "title": TITLED}, schema={"item_id": pl.Int32, "title": pl.String})
    items.write_parquet(folder / "filtered/items.parquet")
    split.split_interactions(folder / "filtered", folder / "split", 9, False, 5)
    source = folder / "filtered/interactions.parquet"
    choices.write(folder / "titles.parquet", lambda: split.blocks(source, None), Titles.of(TITLED), 3)
    return folder


def test_what_the_stage_writes_passes_its_check(made):
    choices.check(made / "titles.parquet", made / "filtered", made / "split")


def set_first(column, value):
    first = pl.int_range(pl.len()) == 0
    return lambda frame: frame.with_columns(pl.when(first).then(value).otherwise(pl.col(column)).alias(column))


BROKEN = {
    "each target of the split has a list": lambda frame: frame[1:],
    "and no other user has": lambda frame: pl.concat([frame, frame[:1].with_columns(split=pl.lit("train"))]),
    "a user has one list a split": lambda frame: pl.concat([frame, frame[:1]]),
    "a list has 19 negatives": set_first("negatives", pl.col("negatives").list.head(18)),
    "has a place among the 20": set_first("place", pl.lit(20, pl.Int32)),
    "negatives are items of the catalogue": set_first("negatives", pl.col("negatives").list.eval(pl.element() + 50)),
    "no negative has a title of the user's history": set_first(
        "negatives", pl.concat_list(pl.col("negatives").list.head(18), "item_id")
    ),
    "no two negatives have one title": set_first(
        "negatives", pl.concat_list(pl.col("negatives").list.head(18), pl.col("negatives").list.first())
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_each_rule_names_what_breaks_it(made, tmp_path, rule):
    shutil.copy(made / "titles.parquet", tmp_path / "titles.parquet")
    frame = BROKEN[rule](pl.read_parquet(made / "titles.parquet"))
    frame.write_parquet(tmp_path / "titles.parquet")
    with pytest.raises(DataError) as caught:
        choices.check(tmp_path / "titles.parquet", made / "filtered", made / "split")
    assert rule in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "the first of user 1 in " in str(caught.value)


def test_the_count_of_negatives_is_that_of_the_protocol():
    assert (NEGATIVES, COUNT) == (19, 20)
