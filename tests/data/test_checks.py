"""Good data pass; each rule is tripped by data that break it; a broken check is not taken for bad data."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import great_expectations as gx
import great_expectations.expectations as gxe
import polars as pl
import pytest

from llmsrec.data import checks
from llmsrec.data.checks import Report, rules, shares, tables
from llmsrec.data.tally import tally
from llmsrec.data.titles import UNTITLED
from llmsrec.errors import DataError
from llmsrec.files import write_json
from llmsrec.params import AtLeast, AtMost, load

ROOT = Path(__file__).parents[2]
USERS, ITEMS, EVENTS, CORE, NEGATIVES = 10, 12, 8, 5, 3
START = 1_600_000_000_000
LIMITS = dict(load(ROOT / "params.yaml").checks)
YEARS = 20.0

Files = dict[str, pl.DataFrame]


def good() -> Files:
    """Ten users in a ring of twelve items, eight events each; the user's other four items give three negatives."""
    order = [[(user + step) % ITEMS + 1 for step in range(ITEMS)] for user in range(USERS)]
    rows = [(u + 1, item, START + 1000 * u + t) for u in range(USERS) for t, item in enumerate(order[u][:EVENTS])]
    ids = {"user_id": pl.Int32, "item_id": pl.Int32}
    interactions = pl.DataFrame(rows, schema={**ids, "timestamp": pl.Int64}, orient="row")
    place = pl.int_range(pl.len()).over("user_id")
    held = [(u + 1, split, order[u][EVENTS - back], order[u][EVENTS : EVENTS + NEGATIVES])
            for split, back in (("valid", 2), ("test", 1)) for u in range(USERS)]  # fmt: skip
    asin = [f"B{item}" for item in range(1, ITEMS + 1)]
    catalogue = pl.lit("Shop").alias("store"), pl.lit(["Home", "Pots"]).alias("categories")
    return {
        "raw/reviews": interactions.select(
            pl.format("U{}", "user_id").alias("user_id"),
            pl.format("B{}", "item_id").alias("parent_asin"),
            pl.lit(5.0, pl.Float32).alias("rating"),
            "timestamp",
        ),
        "raw/items": pl.DataFrame({"parent_asin": asin, "title": [None, "", *asin[2:]]}).with_columns(catalogue),
        "filtered/interactions": interactions,
        "filtered/items": pl.DataFrame({"item_id": range(1, ITEMS + 1), "parent_asin": asin, "title": asin})
        .cast({"item_id": pl.Int32})
        .with_columns(catalogue),
        "filtered/users": pl.DataFrame(
            {"user_id": range(1, USERS + 1), "raw_user_id": [f"U{user}" for user in range(1, USERS + 1)]}
        ).cast({"user_id": pl.Int32}),
        "split/train": interactions.filter(place < EVENTS - 2),
        "split/valid": interactions.filter(place == EVENTS - 2),
        "split/test": interactions.filter(place == EVENTS - 1),
        "split/candidates": pl.DataFrame(
            held, schema={"user_id": pl.Int32, "split": pl.String, "item_id": pl.Int32, "negatives": pl.List(pl.Int32)},
            orient="row",
        ),
    }  # fmt: skip


def write(files: Files, folder: Path) -> tuple[Path, Path, Path]:
    for name, frame in files.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path)
    if not (folder / "filtered/manifest.json").exists():
        write_steps(folder, raw=(10, 80), repeats=(10, 80), core=(10, 80))
    return folder / "raw", folder / "filtered", folder / "split"


def write_steps(folder: Path, **steps: tuple[int, int]) -> None:
    """The filter's manifest: users and events after each step."""
    names = {"raw": "raw", "repeats": "first of repeats", "fraction": "user_fraction 0.5", "core": "5-core round 1"}
    rows = [{"step": names[step], "users": u, "items": ITEMS, "events": e} for step, (u, e) in steps.items()]
    write_json(folder / "filtered/manifest.json", {"steps": rows})


def check(files: Files, folder: Path) -> Report:
    return checks.run(*write(files, folder), CORE, NEGATIVES, LIMITS, YEARS)


def check_changed(files: Files, sound: Files) -> Report:
    """As `check`, without the tables that are as in good data: Great Expectations takes its time for each rule."""
    lazy = {name: frame.lazy() for name, frame in files.items()}
    context = checks.gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    types = checks.validate(context, rules.schema(), tables.columns(lazy).to_pandas())
    if not types.success:
        return Report("", {"schema": types})
    frames = tables.aggregate(lazy)
    items = frames["filtered.items"]["item_id"].count()
    changed = [s for s in rules.suites(CORE, NEGATIVES, items) if not frames[s.table].equals(sound[s.table])]
    return Report("", {s.table: checks.validate(context, s, frames[s.table].to_pandas()) for s in changed})


def tripped(report: Report) -> set[str]:
    return {
        f"{s['name']}.{e['rule']}" for s in report.to_dict()["suites"] for e in s["expectations"] if not e["success"]
    }


Change = Callable[[Files], None]


def cell(name: str, column: str, value: object, row: int = 0) -> Change:
    """Put `value` into one cell."""

    def change(files: Files) -> None:
        frame = files[name]
        values = frame[column].to_list()
        values[row] = value
        files[name] = frame.with_columns(pl.Series(column, values, dtype=frame.schema[column]))

    return change


def drop(name: str, row: int = 0) -> Change:
    return lambda files: files.update({name: files[name].with_row_index().filter(pl.col("index") != row).drop("index")})


def empty(*names: str) -> Change:
    return lambda files: files.update({name: files[name].clear() for name in names})


def copy(name: str, row: int = 0, into: str | None = None) -> Change:
    """Append a row once more, to its own file or to another."""
    return lambda files: files.update({into or name: pl.concat([files[into or name], files[name][row : row + 1]])})


def swap(name: str, column: str, row: int, other: int) -> Change:
    def change(files: Files) -> None:
        values = files[name][column].to_list()
        cell(name, column, values[other], row)(files)
        cell(name, column, values[row], other)(files)

    return change


def both(*changes: Change) -> Change:
    def change(files: Files) -> None:
        for one in changes:
            one(files)

    return change


def last_first(files: Files) -> None:
    """The first user's events move to the end of the file."""
    files[FILTERED] = pl.concat([files[FILTERED][EVENTS:], files[FILTERED][:EVENTS]])


def without(condition: pl.Expr) -> Change:
    """Remove training events, from the filtered data too."""

    def change(files: Files) -> None:
        gone = files[TRAIN].filter(condition)
        for name in (FILTERED, TRAIN):
            files[name] = files[name].join(gone, on=["user_id", "item_id"], how="anti", maintain_order="left")

    return change


def renumber(column: str, old: int, new: int) -> Change:
    """Give a user or an item another id, everywhere."""

    def change(files: Files) -> None:
        for name, frame in files.items():
            if frame.schema.get(column) == pl.Int32:
                files[name] = frame.with_columns(pl.col(column).replace(old, new))
        lists = (
            pl.col("negatives").list.eval(pl.element().replace(old, new))
            if column == "item_id"
            else pl.col("negatives")
        )
        files[CANDIDATES] = files[CANDIDATES].with_columns(lists)

    return change


def eventless(files: Files) -> None:
    """A user without events."""
    users = files["filtered/users"]
    more = pl.DataFrame({"user_id": [USERS + 1], "raw_user_id": ["U0"]}, schema=users.schema)
    files["filtered/users"] = pl.concat([users, more])


def exchange(name: str, row: int, other: str, other_row: int) -> Change:
    """Two events of two files swap their items."""

    def change(files: Files) -> None:
        one, two = files[name]["item_id"][row], files[other]["item_id"][other_row]
        cell(name, "item_id", two, row)(files)
        cell(other, "item_id", one, other_row)(files)

    return change


def untitled(count: int) -> Change:
    return both(*(cell("filtered/items", "title", UNTITLED, row) for row in range(count)))


FILTERED, TRAIN, VALID, TEST = "filtered/interactions", "split/train", "split/valid", "split/test"
CANDIDATES = "split/candidates"
LAST_TRAIN = EVENTS - 3  # the row of the first user's last training event

# rule, what breaks it, and other rules that cannot but fail with it
BROKEN: list[tuple[str, Change, set[str]]] = [
    ("schema.schema", lambda f: f.update({TRAIN: f[TRAIN].drop("timestamp")}), set()),
    ("schema.schema", lambda f: f.update({FILTERED: f[FILTERED].cast({"item_id": pl.Int64})}), set()),
    ("schema.schema", lambda f: f.update({"raw/items": f["raw/items"].with_columns(price=1.0)}), set()),
    ("raw.reviews.rows", empty("raw/reviews"), set()),
    ("raw.reviews.item", cell("raw/reviews", "parent_asin", None), set()),
    ("raw.reviews.item", cell("raw/reviews", "parent_asin", ""), set()),
    ("raw.reviews.user", cell("raw/reviews", "user_id", None), set()),
    ("raw.reviews.user", cell("raw/reviews", "user_id", ""), set()),
    ("raw.reviews.rating", cell("raw/reviews", "rating", float("nan")), set()),
    ("raw.reviews.time", cell("raw/reviews", "timestamp", None), set()),
    ("raw.reviews.rating_low", cell("raw/reviews", "rating", -1.0), set()),
    ("raw.reviews.rating_high", cell("raw/reviews", "rating", 10.0), set()),
    ("raw.reviews.time_early", cell("raw/reviews", "timestamp", START // 1000), set()),
    ("raw.reviews.time_late", cell("raw/reviews", "timestamp", START * 1000), set()),
    ("raw.items.rows", empty("raw/items"), set()),
    ("raw.items.item", cell("raw/items", "parent_asin", None), set()),
    ("raw.items.unique", copy("raw/items"), set()),
    ("filtered.users.raw_id", cell("filtered/users", "raw_user_id", None), set()),
    ("filtered.users.raw_id_unique", cell("filtered/users", "raw_user_id", "U2"), set()),
    ("filtered.items.raw_id", cell("filtered/items", "parent_asin", None), set()),
    ("filtered.items.raw_id_unique", cell("filtered/items", "parent_asin", "B2"), set()),
    ("filtered.items.title", cell("filtered/items", "title", None), set()),
    ("filtered.items.title_clean", cell("filtered/items", "title", ""), set()),
    ("filtered.items.title_clean", cell("filtered/items", "title", "Tent  for two"), set()),
    ("filtered.items.title_clean", cell("filtered/items", "title", "Tent\n"), set()),
    (
        "filtered.users.rows",
        empty(FILTERED, "filtered/users"),
        {
            "filtered.items.core",
            "split.users.foreign",
            "split.users.test_item",
            "split.users.times",
            "split.users.valid_item",
        },
    ),
    (
        "filtered.users.user",
        cell(FILTERED, "user_id", None),
        {
            "filtered.users.core",
            "filtered.users.dense",
            "filtered.users.raw_id",
            "filtered.users.sorted",
            "split.users.candidates",
            "split.users.foreign",
            "split.users.lost",
            "split.users.test",
            "split.users.test_item",
            "split.users.times",
            "split.users.train",
            "split.users.valid",
        },
    ),
    ("filtered.users.dense", renumber("user_id", USERS, USERS + 1), set()),
    ("filtered.users.core", without((pl.col("user_id") == 1) & (pl.col("item_id") < 5)), set()),
    ("filtered.users.core", eventless, {"filtered.users.sorted"}),
    ("filtered.users.dense", copy("filtered/users"), {"filtered.users.raw_id_unique", "filtered.users.sorted"}),
    ("filtered.users.pairs", both(cell(FILTERED, "item_id", 1, 1), cell(TRAIN, "item_id", 1, 1)), set()),
    ("filtered.users.time", both(cell(FILTERED, "timestamp", None), cell(TRAIN, "timestamp", None)), set()),
    ("filtered.users.sorted", last_first, set()),
    (
        "filtered.items.rows",
        empty(FILTERED, "filtered/items"),
        {
            "filtered.users.core",
            "filtered.users.sorted",
            "split.users.foreign",
            "split.users.test_item",
            "split.users.times",
            "split.users.valid_item",
        },
    ),
    (
        "filtered.items.item",
        cell(FILTERED, "item_id", None),
        {
            "filtered.items.core",
            "filtered.items.dense",
            "filtered.items.raw_id",
            "filtered.items.title",
            "split.users.foreign",
            "split.users.lost",
        },
    ),
    ("filtered.items.dense", renumber("item_id", ITEMS, ITEMS + 1), {"split.candidates.highest"}),
    ("filtered.items.core", without((pl.col("item_id") == 6) & (pl.col("user_id") < 4)), set()),
    (
        "split.users.rows",
        empty(FILTERED, "filtered/users", TRAIN, VALID, TEST, CANDIDATES),
        {"filtered.items.core", "filtered.users.rows", "split.candidates.rows"},
    ),
    ("split.users.train", without(pl.col("user_id") == 1), {"filtered.users.core"}),
    (
        "split.users.valid",
        both(copy(VALID, into=TRAIN), drop(VALID)),
        {"split.candidates.positive", "split.users.valid_item"},
    ),
    ("split.users.valid", copy(VALID), {"split.users.times"}),
    (
        "split.users.test",
        both(copy(TEST, into=TRAIN), drop(TEST)),
        {"split.candidates.positive", "split.users.test_item", "split.users.train_before_valid"},
    ),
    ("split.users.shared", copy(VALID, into=TRAIN), {"split.users.times"}),
    ("split.users.lost", drop(TRAIN), {"split.users.times"}),
    (
        "split.users.lost",
        cell(TRAIN, "user_id", None),
        {"split.users.candidates", "split.users.foreign", "split.users.test", "split.users.times", "split.users.valid"},
    ),
    ("split.users.foreign", cell(TRAIN, "item_id", 12), {"split.users.lost"}),
    ("split.users.foreign", cell(TRAIN, "item_id", None), {"split.users.lost"}),
    ("split.users.times", cell(TRAIN, "timestamp", START - 5), set()),
    (
        "split.users.train_before_valid",
        both(cell(TRAIN, "timestamp", START + LAST_TRAIN + 9, LAST_TRAIN), cell(TRAIN, "timestamp", START - 9)),
        set(),
    ),
    (
        "split.users.valid_before_test",
        both(cell(VALID, "timestamp", START + EVENTS + 7), cell(TRAIN, "timestamp", START - 9)),
        set(),
    ),
    ("split.users.valid_item", exchange(VALID, 0, TRAIN, LAST_TRAIN), {"split.candidates.positive"}),
    ("split.users.test_item", exchange(TEST, 0, TRAIN, LAST_TRAIN), {"split.candidates.positive"}),
    ("split.users.candidates", drop(CANDIDATES), set()),
    ("split.candidates.rows", empty(CANDIDATES), {"split.users.candidates"}),
    ("split.candidates.split", cell(CANDIDATES, "split", "train"), {"split.candidates.positive"}),
    ("split.candidates.split", cell(CANDIDATES, "split", None), {"split.candidates.positive"}),
    ("split.candidates.unique", both(copy(CANDIDATES), drop(CANDIDATES, USERS)), set()),
    ("split.candidates.positive", cell(CANDIDATES, "item_id", 12), set()),
    ("split.candidates.positive", cell(CANDIDATES, "item_id", None), set()),
    ("split.candidates.count", cell(CANDIDATES, "negatives", [9, 10]), set()),
    ("split.candidates.count", cell(CANDIDATES, "negatives", None), set()),
    ("split.candidates.repeats", cell(CANDIDATES, "negatives", [9, 10, 9]), set()),
    ("split.candidates.nulls", cell(CANDIDATES, "negatives", [9, 10, None]), set()),
    ("split.candidates.lowest", cell(CANDIDATES, "negatives", [9, 10, 0]), set()),
    ("split.candidates.highest", cell(CANDIDATES, "negatives", [9, 10, 13]), set()),
    ("split.candidates.history", cell(CANDIDATES, "negatives", [9, 10, 1]), set()),
    ("filtered.users.order", both(swap(FILTERED, "timestamp", 0, 1), swap(TRAIN, "timestamp", 0, 1)), set()),
]


@pytest.fixture(scope="module")
def sound() -> dict[str, pl.DataFrame]:
    return tables.aggregate({name: frame.lazy() for name, frame in good().items()})


def test_good_data_pass_and_give_the_same_report_again(tmp_path):
    first, again = check(good(), tmp_path / "a"), check(good(), tmp_path / "b")
    assert first.passed and first.explain() == ""
    assert first.to_dict() == again.to_dict()


@pytest.mark.parametrize(("rule", "change", "also"), BROKEN, ids=[f"{n}-{b[0]}" for n, b in enumerate(BROKEN)])
def test_broken_data_trip_the_rule_and_no_other(sound, rule, change, also):
    files = good()
    change(files)
    report = check_changed(files, sound)
    assert tripped(report) == {rule, *also}
    assert all(outcome["error"] is None for suite in report.to_dict()["suites"] for outcome in suite["expectations"])
    assert f"{rule} (" in report.explain()


def test_every_rule_has_data_that_trip_it():
    every = {"schema.schema"}
    for suite in rules.suites(CORE, NEGATIVES, ITEMS):
        every |= {f"{suite.table}.{rule.meta['rule']}" for rule in suite.rules}
    assert every == {rule for rule, _, _ in BROKEN}


def title(text: str, *rows: int) -> Change:
    return both(*(cell("filtered/items", "title", text, row) for row in rows))


NEXT_CENTURY = 4_000_000_000_000
# figure, what is wrong with the data, its value then, and an example
FIGURES: list[tuple[str, Change, dict[str, tuple[int, int]], float, dict[str, object]]] = [
    ("titles", untitled(4), {}, 8 / 12, {"item_id": 4, "parent_asin": "B4", "events": 6}),
    ("titles", title("N/A", 0), {}, 11 / 12, {"item_id": 1, "parent_asin": "B1", "events": 6}),
    ("duplicate_titles", title("Tent", 0, 1, 5), {}, 3 / 12, {"title": "Tent", "items": 3}),
    ("repeats", copy("raw/reviews"), {"raw": (10, 100), "repeats": (10, 80), "core": (10, 80)}, 0.2,
     {"user_id": "U1", "parent_asin": "B1", "events": 2}),
    ("lost_events", both(), {"raw": (10, 800), "repeats": (10, 200), "fraction": (10, 160), "core": (10, 80)}, 0.5,
     {"step": "user_fraction 0.5", "users": 10, "items": ITEMS, "events": 160}),
    ("lost_users", both(), {"raw": (40, 80), "repeats": (40, 80), "core": (10, 80)}, 0.75,
     {"step": "first of repeats", "users": 40, "items": ITEMS, "events": 80}),
    ("future", cell("raw/reviews", "timestamp", NEXT_CENTURY), {}, 1 / 80,
     {"user_id": "U1", "parent_asin": "B1", "timestamp": NEXT_CENTURY}),
    ("old", cell("raw/reviews", "timestamp", START - 21 * 31_557_600_000), {}, 1 / 80,
     {"user_id": "U1", "parent_asin": "B1", "timestamp": START - 21 * 31_557_600_000}),
    ("age", both(), {}, 30.0, {"newest": START + 1000 * 9 + 7}),
]  # fmt: skip


def limited(folder: Path, change: Change, steps: dict[str, tuple[int, int]], limits: dict[str, object]) -> Report:
    """The report of the figures alone; data/raw was written thirty days after its newest event."""
    files = good()
    change(files)
    if steps:
        write_steps(folder, **steps)
    folders = dict(zip(("raw", "filtered", "split"), write(files, folder), strict=True))
    then = (START + 1000 * 9 + 7) / 1000 + 30 * 86_400
    os.utime(folder / "raw/reviews.parquet", (then, then))
    measured = shares.measure(tables.scan(folders), folders, CORE, YEARS)
    context = checks.gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    values = pl.DataFrame({share.name: [share.value] for share in measured}).to_pandas()
    suite = rules.limits(measured, LIMITS | limits)
    return Report({}, {"limits": checks.validate(context, suite, values)}, {share.name: share for share in measured})


@pytest.mark.parametrize("figure", FIGURES, ids=[f"{n}-{figure[0]}" for n, figure in enumerate(FIGURES)])
def test_a_figure_beyond_a_limit_warns_or_fails_with_value_limit_examples_and_remedy(tmp_path, figure):
    name, change, steps, value, example = figure
    least = name == "titles"
    kind = AtLeast if least else AtMost
    inside, beyond = value * (0.99 if least else 1.01), value * (1.01 if least else 0.99)
    loose = {other: AtMost(warn=None, fail=None) for other in LIMITS if other != "titles"}
    loose |= {"titles": AtLeast(warn=None, fail=None)}

    passing = limited(tmp_path, change, steps, loose | {name: kind(warn=inside, fail=inside)})
    assert passing.passed and not passing.warnings() and passing.shares[name].value == pytest.approx(value)

    warning = limited(tmp_path, change, steps, loose | {name: kind(warn=beyond, fail=inside)})
    (line,) = warning.warnings()
    assert warning.passed and not warning.explain() and warning.to_dict()["warnings"] == 1
    assert warning.shares[name].text(value) in line and warning.shares[name].remedy in line

    failing = limited(tmp_path, change, steps, loose | {name: kind(warn=beyond, fail=beyond)})
    assert not failing.passed and not failing.warnings(), "said once, as what stops"
    assert f"limits.{name} ({failing.shares[name].sentence}: at {'least' if least else 'most'}" in failing.explain()
    assert f"{'lower' if least else 'raise'} checks.{name}.fail" in failing.explain()
    outcome = next(o for o in failing.to_dict()["suites"][0]["expectations"] if o["rule"] == name)
    assert (outcome["share"], outcome["limit"]) == (pytest.approx(value), beyond)
    assert example in outcome["examples"]


def test_every_limit_of_params_has_data_that_trip_it():
    assert {name for name, *_ in FIGURES} == set(LIMITS)


def test_what_a_user_fraction_leaves_out_is_no_loss(tmp_path):
    steps = {"raw": (20, 160), "repeats": (20, 160), "fraction": (10, 80), "core": (10, 80)}
    report = limited(tmp_path, both(), steps, {})
    assert report.shares["lost_users"].value == report.shares["lost_events"].value == 0


def test_the_time_that_counts_as_now_is_when_the_data_were_written(tmp_path):
    """By the clock an old export would be stale one day and fresh the day before, without a change to it."""
    first = limited(tmp_path, both(), {}, {"age": AtMost(warn=29, fail=None)})
    assert first.to_dict() == limited(tmp_path, both(), {}, {"age": AtMost(warn=29, fail=None)}).to_dict()
    assert first.shares["age"].value == pytest.approx(30.0)


def test_one_event_of_the_next_century_does_not_make_the_others_old(tmp_path):
    report = limited(tmp_path, cell("raw/reviews", "timestamp", NEXT_CENTURY), {}, {})
    assert report.shares["old"].value == 0


def test_shares_are_never_shown_as_all_or_nothing_where_they_are_not():
    shown = {
        0.0: "0.0%",
        1.0: "100.0%",
        0.5: "50.0%",
        0.0004: "0.04%",
        0.0005: "0.05%",
        0.973: "97.3%",
        0.9996: "99.96%",
        1e-9: "0.000%",
    }
    assert {value: shares.percent(value) for value in shown} == shown


def test_a_manifest_without_the_filters_steps_is_one_line(tmp_path):
    write_steps(tmp_path, raw=(1, 1))
    with pytest.raises(DataError, match=r"manifest\.json has no step of the 5-core"):
        limited(tmp_path, both(), {}, {})


def test_the_pages_count_what_their_rules_speak_of(tmp_path):
    """ "There are reviews" stood beside the number of items."""
    report = check(good(), tmp_path)
    (rows,) = (
        e
        for s in report.to_dict()["suites"]
        for e in s["expectations"]
        if e["description"].startswith("there are events")
    )
    assert rows["observed"] == USERS * EVENTS != ITEMS
    report.write(tmp_path / "checks.json", tmp_path / "docs")
    index = re.sub("<[^>]*>", " ", (tmp_path / "docs/index.html").read_text())
    assert f"{USERS * EVENTS} events" in index and f"0 of {ITEMS} items break it" in index
    assert "0.0% (0 of 80 events)" in index and "5 to 9" in index, "shares, and a picture"
    assert str(USERS * EVENTS) in re.sub("<[^>]*>", " ", (tmp_path / "docs/raw.reviews.html").read_text())
    assert tally(report.suites()) in index


def test_a_figure_beyond_both_of_its_limits_is_looked_at_once(tmp_path):
    report = limited(tmp_path, both(), {}, {"age": AtMost(warn=20, fail=25)})
    report.write(tmp_path / "checks.json", tmp_path / "docs")
    first = (tmp_path / "docs/index.html").read_text().partition("Look at these first")[2].partition("</table>")[0]
    assert first.count('<td class="failed">') == 1 and "warning" not in first


@pytest.mark.parametrize("without", [1, EVENTS * USERS])
def test_reviews_without_a_rating_pass(tmp_path, without):
    files = good()
    rating = pl.when(pl.int_range(pl.len()) >= without).then(pl.col("rating"))
    files["raw/reviews"] = files["raw/reviews"].with_columns(rating.cast(pl.Float32))
    assert check(files, tmp_path).passed


def test_shuffled_training_items_pass(tmp_path):
    """split.shuffle_train: items in another order within each user, times in place."""
    files = good()
    files[TRAIN] = files[TRAIN].with_columns(pl.col("item_id").reverse().over("user_id"))
    assert check(files, tmp_path).passed


def test_a_broken_check_is_not_bad_data():
    """Great Expectations answers a check that raises as it answers bad data; the report does not."""
    missing = gxe.ExpectColumnValuesToBeBetween(column="no_such", min_value=1, meta={"rule": "lost"}, description="x")
    low = gxe.ExpectColumnValuesToBeBetween(column="n", min_value=2, meta={"rule": "low"}, description="n is 2 or more")
    context = gx.get_context(mode="ephemeral")
    suite = rules.Suite("table", ["key"], [missing, low])
    report = Report(
        "", {"table": checks.validate(context, suite, pl.DataFrame({"key": [7, 8], "n": [1, 2]}).to_pandas())}
    )
    assert not report.passed
    bad, broken = report.explain().split("1 checks are broken")
    assert "table.low (n is 2 or more): 1 of 2 rows (50.0%), such as n 1, key 7" in bad and "lost" not in bad
    assert "table.lost" in broken and "no_such" in broken and "low" not in broken
    outcomes = {outcome["rule"]: outcome for outcome in report.to_dict()["suites"][0]["expectations"]}
    assert outcomes["lost"]["error"] and outcomes["low"]["error"] is None
    assert outcomes["low"]["unexpected_count"] == 1 and outcomes["low"]["examples"] == [{"n": 1, "key": 7}]


def test_report_and_pages_of_data_that_fail(tmp_path):
    """They are written, name rule, count and examples, load nothing from the network and run nothing of the data."""
    files = good()
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    cell("raw/reviews", "rating", 9.0)(files)
    cell("raw/items", "parent_asin", hostile)(files)
    copy("raw/items")(files)
    report = check(files, tmp_path)
    report.write(tmp_path / "checks.json", tmp_path / "docs")
    plain = json.loads((tmp_path / "checks.json").read_text())
    assert plain == report.to_dict() and plain["passed"] is False and {len(d) for d in plain["data"].values()} == {64}
    high, twice = [outcome for suite in plain["suites"] for outcome in suite["expectations"] if not outcome["success"]]
    assert (high["rule"], high["unexpected_count"]) == ("rating_high", 1)
    assert high["examples"] == [{"rating_max": 9, "parent_asin": "B1"}]
    assert (twice["rule"], twice["unexpected_count"]) == ("unique", 2) and twice["examples"][0] == {
        "parent_asin": hostile
    }
    pages = {path.stem: path.read_text() for path in (tmp_path / "docs").iterdir()}
    assert set(pages) == {"index", *(suite["name"] for suite in plain["suites"])}
    assert "no item has a rating above 5" in pages["raw.reviews"]
    for page in pages.values():
        assert "http" not in page and "<script" not in page and "<img" not in page
        linked = set(re.findall(r'href="([^"#][^"]*)"', page))
        assert linked and linked <= {f"{name}.html" for name in pages}, "links lead to pages that are there"


@pytest.mark.parametrize("content", [None, b"PAR1 and no more"])
def test_a_file_that_cannot_be_read(tmp_path, content):
    folders = write(good(), tmp_path)
    path = tmp_path / "split/valid.parquet"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"valid\.parquet is missing or not a parquet file"):
        checks.run(*folders, CORE, NEGATIVES, LIMITS, YEARS)


def test_stage_fails_after_it_wrote_the_report(tmp_path):
    """The committed parameters ask for 99 negatives, these lists have three."""
    for name in ("dvc.yaml", "params.yaml", "stages", "src/llmsrec"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    write(good(), tmp_path / "data")
    done = subprocess.run(
        [sys.executable, "-m", "stages.validate"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "split.candidates.count (a list has 99 negatives): 20 of 20 lists (100.0%), such as count 3, user_id 1"
        in done.stderr
    )
    assert json.loads((tmp_path / "reports/checks.json").read_text())["passed"] is False
    assert (tmp_path / "reports/data_docs/index.html").exists()
