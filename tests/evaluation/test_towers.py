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


def by_hand(random: np.random.Generator, dim: int) -> dict[str, np.ndarray]:
    return {name: random.normal(size=(size, dim)) for name, size in (("valid", 9), ("test", 20), ("items", 31))}


def test_towers_are_ranked_by_vectors_made_of_their_models():
    random = np.random.default_rng(0)
    ours, theirs, matrix = by_hand(random, 4), by_hand(random, 3), random.normal(size=(3, 4))
    config = {"model": {"distill": True}, "blend": {"weight": 0.25, "llm": 2.0, "teacher": 0.5}}
    made = towers.vectors(config, lambda seen: seen @ matrix, ours, theirs)
    assert made.keys() == {"tower_blend", "tower_cf"}
    for split in ("valid", "test"):
        np.testing.assert_allclose(
            made["tower_cf"][split] @ made["tower_cf"]["items"].T, theirs[split] @ matrix @ ours["items"].T
        )
        both = 2.0 * ours[split] @ ours["items"].T + 0.5 * theirs[split] @ theirs["items"].T
        np.testing.assert_allclose(
            made["tower_blend"][split] @ made["tower_blend"]["items"].T, both, rtol=1e-5, atol=1e-5
        )
    assert towers.vectors(config | {"model": {"distill": False}}, lambda seen: seen, ours, theirs).keys() == {
        "tower_blend"
    }


def test_towers_have_the_ranks_of_what_they_are_and_blend_is_compared_with_both():
    random = np.random.default_rng(0)
    vectors = {name: by_hand(random, 4) for name in (*MODELS, "tower_cf")}
    vectors["tower_cf"]["items"] = vectors["llm_srec"]["items"]
    of_test = random.integers(1, 31, 20), np.arange(21), random.integers(1, 31, 20), random.integers(1, 31, (20, 9))
    known = {name: {"test": ranking.rank(of["test"], of["items"], *of_test)} for name, of in vectors.items()}
    known["tower_blend"] = {
        "test": ranking.rank(vectors["sasrec"]["valid"][:1].repeat(20, 0), vectors["sasrec"]["items"], *of_test)
    }
    actual = towers.of_test(known, "sasrec")
    names = {"llm": "llm_srec", "teacher": "sasrec", "blend": "tower_blend", "cf": "tower_cf"}
    assert list(actual) == list(names) and all(actual[tower] is known[name]["test"] for tower, name in names.items())
    assert towers.groups(actual).keys() == {"tower_blend", "tower_cf"}
    common = towers.common(vectors, *of_test[1:3])
    assert (
        common
        == overlap(
            vectors["llm_srec"]["test"], vectors["tower_cf"]["test"], vectors["llm_srec"]["items"], *of_test[1:3]
        )
    ).all()
    compared = towers.compare(actual, common, Bootstrap(200, 3))
    of_blend, of_llm, of_teacher = (per_user(actual[tower]["full"], "ndcg_10") for tower in ("blend", "llm", "teacher"))
    assert compared["blend_minus_llm"]["full"] == Bootstrap(200, 3).difference(of_blend, of_llm)
    assert compared["minus_teacher"]["blend"]["full"] == Bootstrap(200, 3).difference(of_blend, of_teacher)
    del known["tower_cf"], vectors["tower_cf"]  # trained without distillation
    alone = towers.of_test(known, "sasrec")
    assert alone.keys() == {"llm", "teacher", "blend"} and towers.common(vectors, *of_test[1:3]) is None
    assert towers.groups(alone).keys() == {"tower_blend"}


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
