"""Towers beside their teacher, against doing each step by hand."""

import numpy as np
import pytest

from llmsrec.evaluation import ranks as ranking
from llmsrec.evaluation import tables, towers
from llmsrec.evaluation.metrics import per_user
from llmsrec.evaluation.overlap import overlap
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.service import metrics
from llmsrec.serving import schema

MODELS = ("llm_srec", "sasrec")


def ranks(users=40, **lost):
    """Of each tower, so many places below those of the teacher."""
    teacher = np.random.default_rng(0).integers(0, 8, users).astype(np.int32)
    return {name: {protocol: teacher + places for protocol in ("full", "uni99")} for name, places in lost.items()}


def test_cf_is_ranked_by_its_own_vectors_and_the_others_have_their_models_ranks():
    random = np.random.default_rng(0)
    vectors = {name: random.normal(size=(size, 4)) for name, size in (("test", 20), ("cf", 20), ("items", 31))}
    of_test = random.integers(1, 31, 20), np.arange(21), random.integers(1, 31, 20), random.integers(1, 31, (20, 9))
    known = {model: {"test": ranking.rank(random.normal(size=(20, 4)), vectors["items"], *of_test)} for model in MODELS}
    actual, common = towers.rank(known, "sasrec", vectors, *of_test)
    assert actual["llm"] is known["llm_srec"]["test"] and actual["teacher"] is known["sasrec"]["test"]
    expected = ranking.rank(vectors["cf"], vectors["items"], *of_test)
    assert all((actual["cf"][protocol] == expected[protocol]).all() for protocol in ("full", "uni99"))
    assert (common == overlap(vectors["test"], vectors["cf"], vectors["items"], *of_test[1:3])).all()
    assert towers.groups(actual).keys() == {"tower_cf"}
    del vectors["cf"]  # trained without distillation
    alone, common = towers.rank(known, "sasrec", vectors, *of_test)
    assert alone.keys() == {"llm", "teacher"} and common is None and towers.groups(alone) == {}


def test_a_blend_is_ranked_by_both_towers_vectors_and_compared_with_both():
    random = np.random.default_rng(0)
    shapes = {"test": (20, 4), "items": (31, 4), "blend": (20, 7), "blend_items": (31, 7)}
    vectors = {name: random.normal(size=shape) for name, shape in shapes.items()}
    of_test = random.integers(1, 31, 20), np.arange(21), random.integers(1, 31, 20), random.integers(1, 31, (20, 9))
    known = {model: {"test": ranking.rank(random.normal(size=(20, 4)), vectors["items"], *of_test)} for model in MODELS}
    ranked, common = towers.rank(known, "sasrec", vectors, *of_test)
    expected = ranking.rank(vectors["blend"], vectors["blend_items"], *of_test)
    assert all((ranked["blend"][protocol] == expected[protocol]).all() for protocol in ("full", "uni99"))
    assert common is None and towers.groups(ranked).keys() == {"tower_blend"}
    actual = towers.compare(ranked, common, Bootstrap(200, 3))
    of_blend, of_llm, of_teacher = (per_user(ranked[tower]["full"], "ndcg_10") for tower in ("blend", "llm", "teacher"))
    assert actual["blend_minus_llm"]["full"] == Bootstrap(200, 3).difference(of_blend, of_llm)
    assert actual["minus_teacher"]["blend"]["full"] == Bootstrap(200, 3).difference(of_blend, of_teacher)


def test_each_figure_is_that_of_its_parts():
    of, common = ranks(llm=1, cf=9, teacher=0), np.linspace(0, 1, 40)
    actual = towers.compare(of, common, Bootstrap(200, 3))
    for metric in ("ndcg_10", "hr_10"):
        for tower, protocols in of.items():
            for protocol, rank in protocols.items():
                assert actual[metric][tower][protocol] == Bootstrap(200, 3).mean(per_user(rank, metric))
    assert actual["minus_teacher"].keys() == {"llm", "cf"}
    ours, theirs = (per_user(of[tower]["full"], "ndcg_10") for tower in ("cf", "teacher"))
    assert actual["minus_teacher"]["cf"]["full"] == Bootstrap(200, 3).difference(ours, theirs)
    assert actual["overlap_10"] == Bootstrap(200, 3).mean(common)
    alone = towers.compare({name: of[name] for name in ("llm", "teacher")}, None, Bootstrap(200, 3))
    assert alone["minus_teacher"] == {"llm": actual["minus_teacher"]["llm"]} and "overlap_10" not in alone


def test_a_tower_that_is_below_its_teacher_is_named_with_both_figures():
    actual = towers.compare(ranks(llm=0, cf=9, teacher=0), None, Bootstrap(200, 3))
    (said,) = towers.warnings(actual, margin=0.01)
    cf, teacher = (actual["ndcg_10"][name]["full"]["mean"] for name in ("cf", "teacher"))
    assert said == f"cf: {cf:.4f}, below its teacher's {teacher:.4f}: not to be served".replace(" 0.", " .")
    assert towers.warnings({"ndcg_10": actual["ndcg_10"]}, 0.01) == []  # of before they were compared


def test_the_margin_is_where_a_tower_begins_to_be_worse():
    assert towers.worse({"low": -0.01}, 0.01) and not towers.worse({"low": -0.0099}, 0.01)


def test_the_table_has_a_row_a_tower_and_the_teacher_is_not_compared_with_itself():
    of = ranks(llm=1, cf=9, teacher=0, blend=2)
    actual = towers.table(towers.compare(of, None, Bootstrap(200, 3)))
    assert [row[0] for row in actual.rows] == list(towers.TOWERS)
    assert actual.rows[2][-1] == "" and actual.rows[1][-1].startswith("-0.")
    assert "cf" in tables.text([actual])


@pytest.mark.parametrize("elsewhere", [schema.TOWERS, metrics.TOWERS[:-1]])
def test_the_names_of_towers_are_the_same_everywhere(elsewhere):
    assert set(elsewhere) == set(towers.TOWERS)
