"""Each rule at its threshold, with numbers worked out by hand."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from llmsrec import params as parameters
from llmsrec.errors import DataError
from llmsrec.promotion import decision, facts, gate
from llmsrec.promotion.facts import Evidence, Smoke
from llmsrec.scoring.held_out import MISS, HeldOut

LIMITS = parameters.load(Path(__file__).parents[2] / "params.yaml").registry.gate
DATA = {"filtered": "f" * 64, "split": "a" * 64}
SMOKE = Smoke(None, 100, 2.0, {"cf": {"p50": 1.0, "p99": 100.0}, "llm": {"p50": 9.0, "p99": 1000.0}}, 4096.0)


def evidence(ours: list[int], teacher: list[int], shuffled: list[int] | None = None, **changes: Any) -> Evidence:
    """Ranks of a few users among all items; one slice of the first half of them, and one of nobody."""
    ranks = {("llm_srec", "test"): ours, ("sasrec", "test"): teacher, ("llm_srec", "test_shuffled"): shuffled or ours}
    users = np.arange(1, len(ours) + 1)
    frame = pl.concat(
        pl.DataFrame({"user_id": users, "rank": rank}).with_columns(
            model=pl.lit(model), split=pl.lit(split), protocol=pl.lit("full")
        )
        for (model, split), rank in ranks.items()
    )
    made = Evidence(
        version=5,
        checks={"passed": True, "data": {"raw": "0" * 64} | DATA},
        comparison={
            "interval": {"resamples": 200, "seed": 5},
            "data": DATA,
            "paired_by": {"candidates.parquet": "c" * 64},
            "towers": {"ndcg_10": {"llm": {"full": {"mean": 0.5, "low": 0.4, "high": 0.6}}}},
        },
        ranks=frame,
        slices=pl.DataFrame({"user_id": users, "warm": users <= len(ours) // 2, "cold": users < 0}),
        test_users=None,
        bundle_sha256="b" * 64,
        config={"data": DATA},
        parity={
            "largest_difference": {"f_user": 1e-4, "f_item": 1e-6},
            "tolerance": 1e-4,
            "top_10": {"llm": {"users": 40, "identical": 39, "same": 40}},
        },
    )
    return dataclasses.replace(made, **changes)


GOOD = evidence([0] * 20, [2] * 20, [99] * 20)
# Of three users: ranks 0, unknown and 2 make 1, 0 and .5.
ASKED = HeldOut({"full": np.array([0, MISS, 2], dtype=np.int32)}, 1, events=30, unknown_events=4, popular=0)


def rule(name: str, rules: list[gate.Rule]) -> gate.Rule:
    return rules[gate.RULES.index(name)]


def test_a_version_at_every_limit_passes() -> None:
    rules = gate.judge(GOOD, None, "staging", SMOKE, LIMITS)
    assert [actual.name for actual in rules] == list(gate.RULES)
    assert [line for actual in rules for line in actual.failures()] == []


@pytest.mark.parametrize("key", ["config", "comparison", "checks"])
def test_checks_must_be_of_exactly_the_data(key: str) -> None:
    other = {"data": DATA | {"split": "a" * 63 + "b"}}  # the beginning that is shown is the same
    changed = dataclasses.replace(GOOD, **{key: getattr(GOOD, key) | other})
    actual = rule("data", gate.judge(changed, None, "staging", SMOKE, LIMITS))
    assert not actual.holds
    assert all("split data" in line for line in actual.failures())


def test_failed_checks_and_unrecorded_data() -> None:
    failed = dataclasses.replace(GOOD, checks=GOOD.checks | {"passed": False})
    assert rule("data", gate.judge(failed, None, "staging", SMOKE, LIMITS)).failures() == [
        "rule 1 (data): data checks: failed (must be passed)"
    ]
    unknown = dataclasses.replace(GOOD, config={})
    assert "not recorded" in rule("data", gate.judge(unknown, None, "staging", SMOKE, LIMITS)).failures()[0]


def test_a_bundle_with_a_problem() -> None:
    rules = gate.judge(GOOD, None, "staging", Smoke("items.parquet is not the file"), LIMITS)
    assert "items.parquet is not the file" in rule("bundle", rules).failures()[0]
    assert not rule("load", rules).holds  # nothing was measured


def test_parity() -> None:
    parity = GOOD.parity | {"largest_difference": {"f_user": 3e-4}}
    parity |= {"top_10": {"llm": {"users": 40, "identical": 39, "same": 39}}}
    actual = rule("parity", gate.judge(dataclasses.replace(GOOD, parity=parity), None, "staging", SMOKE, LIMITS))
    assert [figure.short for figure in actual.figures if figure.holds is False] == [pytest.approx(2e-4), 1]


def towers_of(cf: float, teacher: float) -> dict[str, Any]:
    """Figures as `evaluation.towers` gives them; the interval of the difference is .002 wide."""
    middle = cf - teacher
    scores = {"llm": 0.125, "cf": cf, "teacher": teacher}
    difference = {"difference": middle, "low": middle - 0.001, "high": middle + 0.001}
    return {
        "ndcg_10": {name: {"full": {"mean": x, "low": x - 0.01, "high": x + 0.01}} for name, x in scores.items()},
        "minus_teacher": {"cf": {"full": difference}},
    }


def judged(limits: Any, **changes: Any) -> gate.Rule:
    version = dataclasses.replace(GOOD, **changes)
    return rule("towers", gate.judge(version, None, "staging", SMOKE, limits))


def test_each_tower_that_will_be_served_is_judged_against_its_teacher() -> None:
    served = LIMITS.model_copy(update={"towers": ["llm", "cf"]})
    for cf, holds in ((0.05, False), (0.1105, False), (0.112, True), (0.2, True)):
        measured = GOOD.comparison | {"towers": towers_of(cf, 0.12)}
        assert judged(served, comparison=measured).holds == holds
        assert judged(LIMITS, comparison=measured).holds, "cf is not served"
    (line,) = judged(served, comparison=GOOD.comparison | {"towers": towers_of(0.05, 0.12)}).failures()
    assert line == (
        "rule 7 (towers): NDCG@10 full, tower cf minus its teacher, lower bound: -0.071 (must be above -0.01), "
        "short by 0.061"
    )


def test_a_tower_that_is_not_served_and_below_its_teacher_is_a_warning() -> None:
    bad = judged(LIMITS, comparison=GOOD.comparison | {"towers": towers_of(0.05, 0.12)})
    (warned,) = [figure for figure in bad.figures if figure.warns]
    assert warned.value == "cf: .0500, below its teacher's .1200: not to be served"
    assert "!!  tower cf is not in registry.gate.towers" in decision.table([bad])
    good = judged(LIMITS, comparison=GOOD.comparison | {"towers": towers_of(0.12, 0.12)})
    assert not any(figure.warns for figure in good.figures)


def test_a_served_tower_that_nobody_measured_is_refused_with_what_helps() -> None:
    served = LIMITS.model_copy(update={"towers": ["cf", "teacher"]})
    assert "from before towers were measured; `dvc repro`" in judged(served).failures()[0]
    assert "without distillation" in judged(served, config={"data": DATA, "distilled": False}).failures()[0]
    worse = evidence([3] * 20, [0] * 20)
    assert not rule("towers", gate.judge(worse, None, "staging", SMOKE, LIMITS)).holds  # llm, from the ranks


def test_quality_says_by_how_much() -> None:
    """Each user at place 2 where SASRec has place 0: 1 / log2(4) - 1 = -0.5, without any spread."""
    worse = evidence([2] * 20, [0] * 20, [99] * 20)
    figures = {figure.name: figure for figure in gate.quality(worse, None, "staging", LIMITS)}
    name = "NDCG@10 full minus that of SASRec"
    assert figures[name].value == pytest.approx(-0.5)
    assert figures[f"{name}, lower bound"].short == pytest.approx(0.5 - LIMITS.margin)
    assert figures[f"{name}, warm (10 users)"].short == pytest.approx(0.5 - LIMITS.slice_margin)
    assert not any("cold" in key for key in figures)  # nobody is in it
    assert figures["version in staging"].value == "none yet"


def test_equal_is_not_inferior_but_not_better() -> None:
    same = evidence([0] * 20, [0] * 20, [99] * 20)
    assert all(figure.holds is not False for figure in gate.quality(same, None, "staging", LIMITS))
    strict = LIMITS.model_copy(update={"require_better": True})
    (failed,) = [figure for figure in gate.quality(same, None, "staging", strict) if figure.holds is False]
    assert (failed.value, failed.limit, failed.short) == (0.0, "above 0", 0.0)


def test_what_is_in_staging_is_compared_on_the_same_candidates() -> None:
    incumbent = evidence([0] * 20, [0] * 20, version=4)
    actual = list(gate.quality(evidence([2] * 20, [2] * 20), incumbent, "staging", LIMITS))
    difference = next(figure for figure in actual if figure.name == "NDCG@10 full minus that of version 4 in staging")
    assert difference.value == pytest.approx(-0.5)
    other = dataclasses.replace(
        incumbent, comparison=incumbent.comparison | {"paired_by": {"candidates.parquet": "d" * 64}}
    )
    assert facts.paired(GOOD, incumbent) and not facts.paired(GOOD, other)
    gone = list(gate.quality(GOOD, DataError("its run is deleted"), "staging", LIMITS))
    assert (gone[-1].value, gone[-1].holds) == ("its run is deleted", False)


def added(low: float, **changes: Any) -> dict[str, Any]:
    """reports/added.json: what 12 items cost the tower llm; the interval is .002 wide."""
    cost = {"difference": low + 0.001, "low": low, "high": low + 0.002}
    towers = {"llm": cost, "cf": {"difference": -0.5, "low": -0.5, "high": -0.5}}
    return {"bundle_sha256": "b" * 64, "items": 12, "towers": towers} | changes


@pytest.mark.parametrize(("low", "holds"), [(-0.0101, False), (-0.01, False), (-0.0099, True), (0.0, True)])
def test_what_added_items_cost_a_served_tower_is_judged_by_the_margin(low: float, holds: bool) -> None:
    longer = dataclasses.replace(GOOD, added=added(low))
    actual = rule("quality", gate.judge(longer, None, "staging", SMOKE, LIMITS))
    assert actual.holds == holds
    (limited,) = (figure for figure in actual.figures if "added items" in figure.name and figure.limit)
    assert limited.name == "NDCG@10 full, llm, among 12 added items too, minus without, lower bound"
    cf = LIMITS.model_copy(update={"towers": ["llm", "cf"]})
    assert not rule("quality", gate.judge(longer, None, "staging", SMOKE, cf)).holds, "cf costs more"
    blend = LIMITS.model_copy(update={"towers": ["llm", "blend"]})
    lines = rule("quality", gate.judge(longer, None, "staging", SMOKE, blend)).failures()
    assert "what the added items cost the tower blend: none, as items were added before" in lines[-1]


def test_added_items_that_were_measured_in_another_bundle_prove_nothing() -> None:
    longer = dataclasses.replace(GOOD, added=added(0.0, bundle_sha256="c" * 64))
    (line,) = rule("bundle", gate.judge(longer, None, "staging", SMOKE, LIMITS)).failures()
    assert "bundle in which its added items were measured: cccccccccccc (must be bbbbbbbbbbbb)" in line


def test_a_longer_catalogue_of_the_same_training_need_not_be_better_than_the_shorter() -> None:
    strict = LIMITS.model_copy(update={"require_better": True})
    longer = dataclasses.replace(GOOD, added=added(0.0))
    assert rule("quality", gate.judge(longer, GOOD, "staging", SMOKE, strict)).holds
    assert not rule("quality", gate.judge(GOOD, GOOD, "staging", SMOKE, strict)).holds
    other = dataclasses.replace(GOOD, comparison=GOOD.comparison | {"trained": "otherwise"})
    assert not rule("quality", gate.judge(longer, other, "staging", SMOKE, strict)).holds


def test_vectors_that_were_not_computed_as_those_of_the_training_break_parity() -> None:
    for largest, holds in ((1e-4, True), (2e-4, False)):
        parity = GOOD.parity | {"added": {"items": 64, "largest_difference": largest, "tolerance": 1e-4}}
        longer = dataclasses.replace(GOOD, added=added(0.0), parity=parity)
        assert rule("parity", gate.judge(longer, None, "staging", SMOKE, LIMITS)).holds == holds


def test_what_was_tested_on_other_data_is_paired_over_the_users_that_were_kept() -> None:
    """Users 2, 3 and 12: ranks 0, unknown and 2 make 1, 0 and .5; the challenger has rank 0, 1, each time."""
    incumbent = facts.OnOtherData(4, np.array([2, 3, 12]), ASKED)
    figures = {figure.name: figure for figure in gate.quality(GOOD, incumbent, "staging", LIMITS)}
    name = "NDCG@10 full minus that of version 4 in staging"
    assert figures[name].value == pytest.approx(0.5)
    assert figures[f"{name}, warm (2 users)"].value == pytest.approx(0.5)
    assert "tested on other data" in str(figures["version 4 in staging"].value)
    assert figures["their last items that it does not know, each a miss"].value == "1 of 3"
    worse = evidence([2] * 20, [2] * 20)
    best = dataclasses.replace(incumbent, asked=dataclasses.replace(ASKED, ranks={"full": np.zeros(3, dtype=np.int32)}))
    assert any(figure.holds is False for figure in gate.quality(worse, best, "staging", LIMITS))


def test_users_are_found_by_their_ids_where_not_all_are_tested() -> None:
    """With `split.by: time` the users of test are not 1..U."""
    ours = dataclasses.replace(GOOD, **{
        name: getattr(GOOD, name).with_columns(pl.col("user_id") * 2) for name in ("ranks", "slices")
    })  # fmt: skip
    incumbent = facts.OnOtherData(4, np.array([4, 6, 24]), ASKED)
    figures = {figure.name: figure for figure in gate.quality(ours, incumbent, "staging", LIMITS)}
    name = "NDCG@10 full minus that of version 4 in staging"
    assert figures[name].value == pytest.approx(0.5)
    assert figures[f"{name}, warm (2 users)"].value == pytest.approx(0.5)


def test_where_the_teacher_alone_is_served_it_is_judged_and_the_llm_tower_is_not() -> None:
    """A shop whose SASRec is better would reach staging by force alone."""
    alone = LIMITS.model_copy(update={"towers": ["teacher"]})
    ours = evidence([5] * 20, [0] * 20)
    ranks = pl.concat([ours.ranks, ours.ranks.filter(pl.col("model") == "sasrec").with_columns(
        split=pl.lit("test_shuffled"), rank=pl.lit(99, dtype=ours.ranks["rank"].dtype))])  # fmt: skip
    ours = dataclasses.replace(ours, ranks=ranks)
    assert any(figure.holds is False for figure in gate.quality(ours, None, "staging", LIMITS))
    assert all(figure.holds is not False for figure in gate.quality(ours, None, "staging", alone))
    assert all(figure.holds is not False for figure in gate.order(ours, alone))
    better = evidence([0] * 20, [0] * 20, version=4)
    worse = dataclasses.replace(ours, ranks=evidence([0] * 20, [5] * 20).ranks)
    assert all(figure.holds is not False for figure in gate.quality(ours, better, "staging", alone))
    assert any(figure.holds is False for figure in gate.quality(worse, better, "staging", alone))


def test_order_must_cost_more_than_noise() -> None:
    assert rule("order", gate.judge(GOOD, None, "staging", SMOKE, LIMITS)).holds
    noisy = evidence([0, 2] * 10, [2] * 20, [2, 0] * 10)
    deaf = evidence([0] * 20, [2] * 20)
    for version in (noisy, deaf):
        assert not rule("order", gate.judge(version, None, "staging", SMOKE, LIMITS)).holds


@pytest.mark.parametrize(("field", "name"), [("latency_ms", "p99 in ms, cf"), ("peak_mb", "peak memory in MB")])
def test_load_above_a_limit(field: str, name: str) -> None:
    value = 4100.0 if field == "peak_mb" else {"cf": {"p50": 1.0, "p99": 104.0}}
    actual = gate.load(dataclasses.replace(SMOKE, **{field: value}), LIMITS)
    (failed,) = [figure for figure in actual if figure.holds is False]
    assert (failed.name, failed.short) == (name, 4.0)


def alone(ours: list[int], shuffled: list[int] | None = None) -> Evidence:
    """GRU4Rec by itself, of the same users."""
    of = evidence(ours, ours, shuffled)
    scores = {"ndcg_10": {"teacher": {"full": {"mean": 0.5, "low": 0.4, "high": 0.6}}}, "minus_teacher": {}}
    about = {"model": "gru4rec", "teacher": "gru4rec", "towers": scores}
    ranks = of.ranks.filter(model="llm_srec").with_columns(model=pl.lit("gru4rec"))
    return dataclasses.replace(of, ranks=ranks, comparison=of.comparison | about)


def test_a_recommender_by_itself_is_judged_by_its_own_ranks_and_is_told_what_does_not_apply() -> None:
    rules = gate.judge(alone([0] * 20, [99] * 20), None, "staging", SMOKE, LIMITS)
    assert [line for actual in rules for line in actual.failures()] == []
    said = decision.table(rules)
    assert "SASRec" in said and "not compared: this is GRU4Rec by itself, without a teacher" in said
    assert "does not apply: this is GRU4Rec by itself" in said
    (warned,) = [figure for figure in rule("towers", rules).figures if figure.warns]
    assert warned.name == "tower llm of registry.gate.towers" and "requests that name it will be refused" in str(warned)
    of_teacher = LIMITS.model_copy(update={"towers": ["teacher"]})
    actual = rule("towers", gate.judge(alone([0] * 20, [99] * 20), None, "staging", SMOKE, of_teacher))
    assert not any(figure.warns for figure in actual.figures)
    assert not rule("order", gate.judge(alone([0] * 20), None, "staging", SMOKE, LIMITS)).holds


@pytest.mark.parametrize("kinds", ["LLM-SRec in staging", "GRU4Rec in staging", "both GRU4Rec"])
def test_versions_of_both_kinds_compete_for_one_alias(kinds: str) -> None:
    better, worse = [0] * 20, [2] * 20  # NDCG@10 of 1 and of .5
    make = {"GRU4Rec": alone, "LLM-SRec": lambda ours, shuffled=None: evidence(ours, ours, shuffled)}
    ours, incumbent = {
        "LLM-SRec in staging": ("GRU4Rec", "LLM-SRec"),
        "GRU4Rec in staging": ("LLM-SRec", "GRU4Rec"),
        "both GRU4Rec": ("GRU4Rec", "GRU4Rec"),
    }[kinds]
    for challenger, holder, difference in ((better, worse, 0.5), (worse, better, -0.5)):
        actual = rule(
            "quality", gate.judge(make[ours](challenger, [99] * 20), make[incumbent](holder), "staging", SMOKE, LIMITS)
        )
        named = [
            figure for figure in actual.figures if figure.name == "NDCG@10 full minus that of version 5 in staging"
        ]
        assert [figure.value for figure in named] == [pytest.approx(difference)]
        assert actual.holds == (difference > 0)


def test_the_tower_that_is_asked_of_a_version_is_one_that_it_has() -> None:
    of_teacher = LIMITS.model_copy(update={"towers": ["teacher"]})
    assert [gate.tower(LIMITS, GOOD), gate.tower(of_teacher, GOOD)] == ["llm", "teacher"]
    assert [gate.tower(limits, alone([0] * 20)) for limits in (LIMITS, of_teacher)] == ["teacher", "teacher"]


def with_ranks(of: Evidence, name: str, test: list[int], shuffled: list[int]) -> Evidence:
    """The same with ranks of another name."""
    made = [
        of.ranks.filter(model="llm_srec", split=split).with_columns(model=pl.lit(name), rank=pl.Series(ranks))
        for split, ranks in (("test", test), ("test_shuffled", shuffled))
    ]
    return dataclasses.replace(of, ranks=pl.concat([of.ranks, *made], how="vertical_relaxed"))


@pytest.mark.parametrize(("served", "name"), [("blend", "tower_blend"), ("cf", "tower_cf")])
def test_what_is_judged_is_a_tower_that_will_be_served(served: str, name: str) -> None:
    """`llm` is far worse than SASRec and does not notice a shuffle; the tower that is served is better, and does."""
    limits, of_llm = LIMITS.model_copy(update={"towers": [served, "teacher"]}), evidence([99] * 20, [2] * 20, [99] * 20)
    good = with_ranks(of_llm, name, [0] * 20, [99] * 20)
    for judged, holds in ((LIMITS, False), (limits, True)):
        rules = gate.judge(good, None, "staging", SMOKE, judged)
        assert [rule("quality", rules).holds, rule("order", rules).holds] == [holds, holds]
    other = with_ranks(of_llm, name, [2] * 20, [99] * 20)
    against = gate.judge(other, good, "staging", SMOKE, limits)
    assert "minus that of version 5 in staging" in rule("quality", against).failures()[0]
    assert rule("quality", gate.judge(good, other, "staging", SMOKE, limits)).holds
    before = gate.judge(of_llm, good, "staging", SMOKE, limits)  # its ranks were not kept
    for of_rule in ("quality", "order"):
        assert f"version 5, tower {served}" in rule(of_rule, before).failures()[0]
    (line,) = rule("quality", gate.judge(good, of_llm, "staging", SMOKE, limits)).failures()
    assert f"version 5 in staging, tower {served}" in line and "`dvc repro`" in line


def test_without_distillation_nothing_is_said_of_an_older_run() -> None:
    """There is no tower `cf`, and no `dvc repro` makes one."""
    limits, measured = LIMITS.model_copy(update={"towers": ["cf"]}), towers_of(0.12, 0.12)
    del measured["ndcg_10"]["cf"], measured["minus_teacher"]["cf"]
    without = dataclasses.replace(
        GOOD, config=GOOD.config | {"distilled": False}, comparison=GOOD.comparison | {"towers": measured}
    )
    rules = gate.judge(without, None, "staging", SMOKE, limits)
    holder = facts.Evaluated(
        **{field.name: getattr(without, field.name) for field in dataclasses.fields(facts.Evaluated)}
    )
    with_cf = with_ranks(GOOD, "tower_cf", [0] * 20, [99] * 20)
    lines = [rule(name, rules).failures() for name in ("quality", "order", "towers")]
    lines.append(rule("quality", gate.judge(with_cf, holder, "staging", SMOKE, limits)).failures())
    for (line,) in lines:
        assert "tower cf: none, as the model was trained without distillation" in line and "dvc repro" not in line


def test_an_index_must_find_the_best_items_and_a_longer_catalogue_is_judged_by_its_own_figure() -> None:
    def judged(recall: float, added: dict[str, Any] | None = None) -> gate.Rule:
        index = {"cf": {"recall_10": recall, "users": 500, "cells": 2000, "read": 64}}
        changed = dataclasses.replace(GOOD, parity=GOOD.parity | {"index": index}, added=added)
        return gate.Rule("parity", tuple(gate.parity(changed, LIMITS)))

    assert judged(0.99).holds
    (line,) = judged(0.98).failures()
    assert line == (
        "rule 3 (parity): share of the exact 10 best items that the index finds, cf (500 users): 0.98 (must be at "
        "least 0.99), short by 0.01"
    )
    longer = {"index": {"cf": {"recall_10": 0.97, "users": 2000}}}
    assert judged(0.999, {"index": {}}).holds and not judged(0.999, longer).holds
    assert "index" not in str(gate.Rule("parity", tuple(gate.parity(GOOD, LIMITS))))


def test_items_that_the_holder_offers_by_title_and_the_challenger_does_not_are_a_warning_with_the_command() -> None:
    dropped = facts.Dropped(4, 1200, "llmsrec items add --from shop/4 --model shop/5")
    rules = gate.judge(GOOD, None, "staging", SMOKE, LIMITS, dropped=dropped)
    (figure,) = [
        figure for rule in rules for figure in rule.figures if figure.warns and "added by title" in figure.name
    ]
    assert figure.name == "items added by title to version 4 in staging that it does not have"
    assert figure.value == "1,200; a version with them: llmsrec items add --from shop/4 --model shop/5"
    assert all(rule.holds for rule in rules)
    rules = gate.judge(GOOD, None, "staging", SMOKE, LIMITS, dropped=facts.Dropped(4, 0, ""))
    assert not any("added by title" in figure.name for rule in rules for figure in rule.figures)
