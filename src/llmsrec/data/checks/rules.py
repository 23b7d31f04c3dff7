"""The rules as Great Expectations: what must hold of each table, in one sentence each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import great_expectations.expectations as gxe
from great_expectations.expectations.metadata_types import FailureSeverity

from llmsrec.data.checks.shares import Limits, Share
from llmsrec.data.titles import UNTITLED
from llmsrec.times import EARLIEST, LATEST

LOWEST_RATING, HIGHEST_RATING = 0, 5
LIMITS = "limits"  # the table of figures


@dataclass(frozen=True)
class Suite:
    """The rules of one table.

    Attributes:
        table: its name.
        keys: the columns that name a row in the examples.
        rules: what must hold.
        rows: what its rows are, in the plural.
    """

    table: str
    keys: Sequence[str]
    rules: Sequence[gxe.Expectation]
    rows: str = "rows"


def schema() -> Suite:
    """What every other rule needs; checked first, alone."""
    rule = _equal("schema", "columns and types are those of the contract", "found", "expected")
    return Suite("schema", ["file", "column"], [rule], "columns")


def limits(shares: Sequence[Share], limits: Mapping[str, Limits]) -> Suite:
    """A rule for each limit that is set; the table has one row, of the figures' values."""
    rules = []
    for share in shares:
        for level in ("fail", "warn"):
            limit = getattr(limits[share.name], level)
            if limit is not None:
                rules.append(_limit(share, level, limit))
    return Suite(LIMITS, [], rules, "figures")


def suites(core: int, negatives: int, items: int, repeats: str = "first", by: str = "last") -> list[Suite]:
    """The rules that hold for each row or are broken.

    Args:
        core: events that each user and each item has at least.
        negatives: the length of each list of candidates.
        items: I, where item ids are 1..I.
        repeats: data.repeats; a pair of user and item may have several events only with `keep`.
        by: split.by.
    """
    pairs = [_equal("pairs", "no user has two events with one item", "items", "events")] if repeats == "first" else []
    return [
        Suite(
            "raw.reviews",
            ["parent_asin"],
            [
                _sum("rows", "there are events", "events"),
                _filled("item", "each event names an item", "parent_asin"),
                _none("user", "no item has an event without a user", "without_user"),
                _none("rating", "no item has a rating that is no number (none at all is fine)", "rating_nan"),
                _none("time", "no item has an event without a time", "without_time"),
                _least("rating_low", f"no item has a rating below {LOWEST_RATING}", "rating_min", LOWEST_RATING),
                _most("rating_high", f"no item has a rating above {HIGHEST_RATING}", "rating_max", HIGHEST_RATING),
                _least("time_early", "times are ms since 1970: no item has one before 1990", "earliest", EARLIEST),
                _most("time_late", "times are ms since 1970: no item has one after 2100", "latest", LATEST),
            ],
            "items",
        ),
        Suite(
            "raw.items",
            ["parent_asin"],
            [
                _some("rows", "there are items"),
                _filled("item", "each item has an id", "parent_asin"),
                _unique("unique", "no item is there twice", "parent_asin"),
            ],
            "items",
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
                _least("core", f"each user has events with {core} items or more", "items", core),
                *pairs,
                _none("time", "no user has an event without a time", "without_time"),
                _none("order", "a user's events are in order of time", "steps_back"),
                _equal("sorted", "users follow one another in the file", "first_row", "start"),
            ],
            "users",
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
                _none("title_clean", "titles are words with single spaces between", "untidy"),
            ],
            "items",
        ),
        Suite(
            "split.users",
            ["user_id"],
            [
                _some("rows", "there are users"),
                _none("shared", "no user has an event in two splits", "shared"),
                _none("foreign", "each user's events of the splits are all filtered events", "foreign"),
                _after("train_before_valid", "no training event is later than validation", "valid_first", "train_last"),
                _after("valid_before_test", "no validation event is later than test", "test_first", "valid_last"),
                *(_by_time() if by == "time" else _leave_last_out()),
            ],
            "users",
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
            "lists",
        ),
    ]


def _leave_last_out() -> list[gxe.Expectation]:
    """What must hold of a user's events in the splits where the last two are held out."""
    return [
        _least("train", "each user has a training event", "train", 1),
        _exactly("valid", "each user has one validation event", "valid", 1),
        _exactly("test", "each user has one test event", "test", 1),
        _none("lost", "each user's filtered events are all in a split", "lost"),
        _none("times", "the splits hold the times of the filtered events", "time_moved"),
        _equal("valid_item", "validation is the last event but one", "valid_item", "valid_expected"),
        _equal("test_item", "test is the last event", "test_item", "test_expected"),
        _exactly("candidates", "each user has two lists of candidates", "candidates", 2),
    ]


def _by_time() -> list[gxe.Expectation]:
    """The same where the splits are cut at two times."""
    said = "the first event from the cut on, of users with events before it"
    return [
        _equal("train", "training is what was before the first cut, no more and no less", "train", "train_expected"),
        _most("valid", "no user has two validation events", "valid", 1),
        _most("test", "no user has two test events", "test", 1),
        _equal("valid_item", f"validation is {said}, if it was before the second", "valid_item", "valid_expected"),
        _equal("test_item", f"test is {said}", "test_item", "test_expected"),
        _equal("candidates", "each target has a list of candidates", "candidates", "candidates_expected"),
    ]


def _labels(rule: str, sentence: str) -> dict[str, Any]:
    return {"meta": {"rule": rule}, "description": sentence}


def _some(rule: str, sentence: str) -> gxe.Expectation:
    return gxe.ExpectTableRowCountToBeBetween(min_value=1, **_labels(rule, sentence))


def _sum(rule: str, sentence: str, column: str) -> gxe.Expectation:
    labels = _labels(rule, sentence)
    labels["meta"] |= {"rows": column}
    return gxe.ExpectColumnSumToBeBetween(column=column, min_value=1, **labels)


def _limit(share: Share, level: str, limit: float) -> gxe.Expectation:
    side = "at least" if share.least else "at most"
    labels = _labels(
        share.name if level == "fail" else f"{share.name}.warn", f"{share.sentence}: {side} {share.text(limit)}"
    )
    labels["meta"] |= {"share": share.name, "level": level, "limit": limit}
    return gxe.ExpectColumnValuesToBeBetween(
        column=share.name,
        min_value=limit if share.least else None,
        max_value=None if share.least else limit,
        severity=FailureSeverity.CRITICAL if level == "fail" else FailureSeverity.WARNING,
        **labels,
    )


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
