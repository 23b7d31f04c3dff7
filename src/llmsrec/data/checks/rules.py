"""The rules as Great Expectations: what must hold of each table, in one sentence each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import great_expectations.expectations as gxe

from llmsrec.data.titles import UNTITLED
from llmsrec.times import EARLIEST, LATEST

LOWEST_RATING, HIGHEST_RATING = 0, 5
TITLES = 0.8  # checks.titles.fail of params.yaml as committed
NO_TITLES = (
    "is the catalogue (meta_<category>) that of these reviews, with a text in `title`? A language model knows nothing "
    "else of an item; to go on all the same, lower checks.titles.fail"
)


@dataclass(frozen=True)
class Suite:
    """The rules of one table; `keys` are the columns that name a row in the examples."""

    table: str
    keys: Sequence[str]
    rules: Sequence[gxe.Expectation]


def schema() -> Suite:
    """What every other rule needs; checked first, alone."""
    rule = _equal("schema", "columns and types are those of the contract", "found", "expected")
    return Suite("schema", ["file", "column"], [rule])


def suites(core: int, negatives: int, items: int, titles: float = TITLES) -> list[Suite]:
    """All other rules.

    Args:
        core: events that each user and each item has at least.
        negatives: the length of each list of candidates.
        items: I, where item ids are 1..I.
        titles: the least share of items with a title.
    """
    return [
        Suite(
            "raw.reviews",
            ["parent_asin"],
            [
                _sum("rows", "there are reviews (the number is their sum over the items)", "reviews"),
                _filled("item", "each review names an item", "parent_asin"),
                _none("user", "no item has a review without a user", "without_user"),
                _none("rating", "no item has a rating that is no number (none at all is fine)", "rating_nan"),
                _none("time", "no item has a review without a time", "without_time"),
                _least("rating_low", f"no item has a rating below {LOWEST_RATING}", "rating_min", LOWEST_RATING),
                _most("rating_high", f"no item has a rating above {HIGHEST_RATING}", "rating_max", HIGHEST_RATING),
                _least("time_early", "times are ms since 1970: no item has one before 1990", "earliest", EARLIEST),
                _most("time_late", "times are ms since 1970: no item has one after 2100", "latest", LATEST),
            ],
        ),
        Suite(
            "raw.items",
            ["parent_asin"],
            [
                _some("rows", "there are items"),
                _filled("item", "each item has an id", "parent_asin"),
                _unique("unique", "no item is there twice", "parent_asin"),
            ],
        ),
        Suite(
            "filtered.users",
            ["user_id"],
            [
                _some("rows", "there are users"),
                _filled("user", "no event is without a user", "user_id"),
                _equal("dense", "user ids are 1, 2, 3, ...", "user_id", "position"),
                _filled("raw_id", "each user has a raw id", "raw_user_id"),
                _unique("raw_id_unique", "no two users share a raw id", "raw_user_id"),
                _least("core", f"each user has {core} events or more", "events", core),
                _equal("pairs", "no user has two events with one item", "items", "events"),
                _none("time", "no user has an event without a time", "without_time"),
                _none("order", "a user's events are in order of time", "steps_back"),
                _equal("sorted", "users follow one another in the file", "first_row", "start"),
            ],
        ),
        Suite(
            "filtered.items",
            ["item_id"],
            [
                _some("rows", "there are items"),
                _filled("item", "no event is without an item", "item_id"),
                _equal("dense", "item ids are 1, 2, 3, ...", "item_id", "position"),
                _filled("raw_id", "each item has a raw id", "parent_asin"),
                _unique("raw_id_unique", "no two items share a raw id", "parent_asin"),
                _least("core", f"each item has {core} events or more", "events", core),
                _filled("title", f"each item has a title, or {UNTITLED!r} instead", "title"),
                _share("titled", f"at least {titles:.1%} of the items have a title", "titled", titles, NO_TITLES),
                _none("title_clean", "titles are words with single spaces between", "untidy"),
            ],
        ),
        Suite(
            "split.users",
            ["user_id"],
            [
                _some("rows", "there are users"),
                _least("train", "each user has a training event", "train", 1),
                _exactly("valid", "each user has one validation event", "valid", 1),
                _exactly("test", "each user has one test event", "test", 1),
                _none("shared", "no user has an event in two splits", "shared"),
                _none("lost", "each user's filtered events are all in a split", "lost"),
                _none("foreign", "each user's events of the splits are all filtered events", "foreign"),
                _none("times", "the splits hold the times of the filtered events", "time_moved"),
                _after("train_before_valid", "no training event is later than validation", "valid_first", "train_last"),
                _after("valid_before_test", "no validation event is later than test", "test_first", "valid_last"),
                _equal("valid_item", "validation is the last event but one", "valid_item", "valid_expected"),
                _equal("test_item", "test is the last event", "test_item", "test_expected"),
                _exactly("candidates", "each user has two lists of candidates", "candidates", 2),
            ],
        ),
        Suite(
            "split.candidates",
            ["user_id", "split"],
            [
                _some("rows", "there are lists of candidates"),
                _in_set("split", "a list is for valid or test", "split", ["valid", "test"]),
                _unique_together("unique", "a user has one list a split", ["user_id", "split"]),
                _equal("positive", "the positive is the split's item", "item_id", "expected"),
                _exactly("count", f"a list has {negatives} negatives", "count", negatives),
                _none("repeats", "a list holds no item twice", "repeated"),
                _none("nulls", "a list holds no null", "nulls"),
                _least("lowest", "negatives are item ids, from 1", "lowest", 1),
                _most("highest", f"negatives are item ids, up to {items}", "highest", items),
                _none("history", "no negative is in the user's history", "in_history"),
            ],
        ),
    ]


def _labels(rule: str, sentence: str) -> dict[str, Any]:
    return {"meta": {"rule": rule}, "description": sentence}


def _some(rule: str, sentence: str) -> gxe.Expectation:
    return gxe.ExpectTableRowCountToBeBetween(min_value=1, **_labels(rule, sentence))


def _sum(rule: str, sentence: str, column: str) -> gxe.Expectation:
    return gxe.ExpectColumnSumToBeBetween(column=column, min_value=1, **_labels(rule, sentence))


def _share(rule: str, sentence: str, column: str, least: float, remedy: str) -> gxe.Expectation:
    """At least a share of the rows has a 1 in the column."""
    labels = _labels(rule, sentence)
    labels["meta"] |= {"share": True, "remedy": remedy}
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[1], mostly=least, **labels)


def _filled(rule: str, sentence: str, column: str) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToNotBeNull(column=column, **_labels(rule, sentence))


def _unique(rule: str, sentence: str, column: str) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeUnique(column=column, **_labels(rule, sentence))


def _unique_together(rule: str, sentence: str, columns: list[str]) -> gxe.Expectation:
    return gxe.ExpectCompoundColumnsToBeUnique(column_list=columns, **_labels(rule, sentence))


def _least(rule: str, sentence: str, column: str, value: int) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=value, **_labels(rule, sentence))


def _most(rule: str, sentence: str, column: str, value: int) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeBetween(column=column, max_value=value, **_labels(rule, sentence))


def _exactly(rule: str, sentence: str, column: str, value: int) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[value], **_labels(rule, sentence))


def _none(rule: str, sentence: str, column: str) -> gxe.Expectation:
    return _exactly(rule, sentence, column, 0)


def _in_set(rule: str, sentence: str, column: str, values: list[str]) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=values, **_labels(rule, sentence))


def _equal(rule: str, sentence: str, left: str, right: str) -> gxe.Expectation:
    return gxe.ExpectColumnPairValuesToBeEqual(
        column_A=left, column_B=right, ignore_row_if="both_values_are_missing", **_labels(rule, sentence)
    )


def _after(rule: str, sentence: str, later: str, earlier: str) -> gxe.Expectation:
    return gxe.ExpectColumnPairValuesAToBeGreaterThanB(
        column_A=later,
        column_B=earlier,
        or_equal=True,
        ignore_row_if="either_value_is_missing",
        **_labels(rule, sentence),
    )
