"""The report's numbers against recomputing them from the ranks, on hand-made ranks."""

import json

import numpy as np
import polars as pl
import pytest

from llmsrec.errors import DataError
from llmsrec.evaluation import report
from llmsrec.evaluation.metrics import per_user, summary
from llmsrec.evaluation.significance import Bootstrap

SPLITS, PROTOCOLS = ("valid", "test", "test_shuffled"), ("full", "uni99")


def made(users=40, seed=0):
    random = np.random.default_rng(seed)
    return {
        model: {
            split: {protocol: random.integers(0, 15, users).astype(np.int32) for protocol in PROTOCOLS}
            for split in SPLITS
        }
        for model in ("llm_srec", "sasrec", "popularity")
    }


def groups(users=40):
    return {"warm": np.arange(users) < 11, "cold": np.zeros(users, dtype=bool), "transition": np.arange(users) % 2 == 0}


def compared(ranks):
    return report.comparison(ranks, groups(), Bootstrap(200, 3))


def test_evaluation_holds_each_metric_of_each_protocol():
    ranks = made()
    actual = report.evaluation(ranks, groups(), {})
    for model in ranks:
        for split in SPLITS:
            for protocol in PROTOCOLS:
                metrics = actual[model][split][protocol]
                plain = {name: value for name, value in metrics.items() if not isinstance(value, dict)}
                assert plain == summary(ranks[model][split][protocol])
                slices = {"warm", "transition"} if split == "test" else set()  # cold has no users
                assert metrics.keys() - plain.keys() == slices


def test_evaluation_by_hand():
    ranks = made(users=2)
    ranks["sasrec"]["test"]["full"] = np.array([0, 15], dtype=np.int32)
    actual = report.evaluation(ranks, {"warm": np.array([False, True])}, {})["sasrec"]["test"]["full"]
    assert actual["hr_10"] == actual["ndcg_10"] == 0.5 and actual["hr_20"] == 1.0
    assert actual["warm"] == {"ndcg_10": 0.0, "hr_10": 0.0}


def test_other_ranks_of_llm_srec_stand_beside_the_slices():
    ranks, cf = made(), {protocol: np.zeros(40, dtype=np.int32) for protocol in PROTOCOLS}
    actual = report.evaluation(ranks, groups(), {}, {"tower_cf": cf})
    for protocol in PROTOCOLS:
        assert actual["llm_srec"]["test"][protocol].pop("tower_cf") == {"ndcg_10": 1.0, "hr_10": 1.0}
    assert actual == report.evaluation(ranks, groups(), {})


def test_evaluation_is_numbers_in_json():
    """As `dvc metrics` needs it."""
    actual = json.loads(json.dumps(report.evaluation(made(), groups(), {"sasrec": {"distance": 1.5}})))
    leaves = pl.DataFrame(pl.json_normalize([actual], max_level=9)).row(0)
    assert len(leaves) == 3 * (3 * 2 * 4 + 2 * 2 * 2) + 1 and all(isinstance(leaf, float) for leaf in leaves)


def test_comparison_agrees_with_evaluation():
    ranks = made()
    evaluation, actual = report.evaluation(ranks, groups(), {}), compared(ranks)
    for model in ranks:
        for split in ("test", "test_shuffled"):
            for protocol in PROTOCOLS:
                for metric in report.HEADLINE:
                    one = actual["means"][model][split][protocol][metric]
                    assert one["mean"] == evaluation[model][split][protocol][metric]
                    assert one["low"] <= one["mean"] <= one["high"]
    of_slice = actual["means"]["sasrec"]["test"]["full"]["warm"]["hr_10"]["mean"]
    assert of_slice == evaluation["sasrec"]["test"]["full"]["warm"]["hr_10"]
    assert actual["users"] == {"all": 40, "warm": 11, "cold": 0, "transition": 20}
    assert actual["interval"] == {"level": 95, "resamples": 200, "seed": 3}


def test_differences_are_ours_minus_theirs_and_shuffled_minus_original():
    ranks = made()
    actual = compared(ranks)
    assert actual["differences"].keys() == {"llm_srec_minus_sasrec", "llm_srec_minus_popularity"}

    def mean(model, split, users=slice(None)):
        return per_user(ranks[model][split]["uni99"][users], "ndcg_10").mean()

    ours, theirs = mean("llm_srec", "test"), mean("sasrec", "test")
    one = actual["differences"]["llm_srec_minus_sasrec"]["uni99"]["ndcg_10"]
    assert one["difference"] == pytest.approx(ours - theirs) and one["relative"] == pytest.approx(ours / theirs - 1)
    warm = groups()["warm"]
    one = actual["differences"]["llm_srec_minus_popularity"]["uni99"]["warm"]["ndcg_10"]
    assert one["difference"] == pytest.approx(mean("llm_srec", "test", warm) - mean("popularity", "test", warm))
    one = actual["shuffle"]["sasrec"]["uni99"]["ndcg_10"]
    assert one["difference"] == pytest.approx(mean("sasrec", "test_shuffled") - theirs)


def test_a_shuffle_that_hurts_everybody_is_more_than_noise_and_one_that_changes_nothing_is_zero():
    ranks = made()
    ranks["llm_srec"]["test"]["full"] = np.zeros(40, dtype=np.int32)
    ranks["llm_srec"]["test_shuffled"]["full"] = np.arange(40, dtype=np.int32) % 3
    ranks["popularity"]["test_shuffled"] = ranks["popularity"]["test"]
    actual = compared(ranks)["shuffle"]
    assert actual["llm_srec"]["full"]["ndcg_10"]["high"] < 0
    zero = {"difference": 0, "low": 0, "high": 0, "relative": 0}
    assert actual["popularity"]["full"]["ndcg_10"] == zero


def test_user_vectors_are_described():
    random = np.random.default_rng(1)
    test, shuffled = random.standard_normal((40, 4)), random.standard_normal((40, 4))
    actual = report.describe(test, shuffled, seed=0)
    pairs = [np.linalg.norm(a - b) for i, a in enumerate(test) for b in test[:i]]
    assert actual["distance"] == pytest.approx(np.mean(pairs)) and actual["distance_users"] == 40
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(test, shuffled, strict=True)]
    assert actual["cosine_shuffled"] == pytest.approx(np.mean(cosines))
    assert report.evaluation(made(), {}, {"sasrec": actual})["sasrec"]["user_vectors"] == actual
    assert report.describe(test[:1], test[:1], seed=0) == {"cosine_shuffled": pytest.approx(1)}


def test_equal_ranks_give_equal_reports():
    assert compared(made()) == compared(made())


def test_ranks_come_back_from_the_file(tmp_path):
    ranks = made()
    report.write_ranks(tmp_path / "ranks.parquet", ranks)
    frame = pl.read_parquet(tmp_path / "ranks.parquet")
    assert frame.columns == ["user_id", "model", "split", "protocol", "rank"]
    assert frame.schema["rank"] == frame.schema["user_id"] == pl.Int32 and len(frame) == 3 * 3 * 2 * 40
    for (model, split, protocol), of_users in frame.group_by("model", "split", "protocol"):
        of_users = of_users.sort("user_id")
        assert of_users["user_id"].to_list() == list(range(1, 41))
        assert of_users["rank"].to_list() == ranks[model][split][protocol].tolist()
    report.write_ranks(tmp_path / "again.parquet", ranks)
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "ranks.parquet").read_bytes()


def test_slices_as_a_table(tmp_path):
    report.write_slices(tmp_path / "slices.parquet", {"warm": np.array([True, False]), "cold": np.array([False, True])})
    assert pl.read_parquet(tmp_path / "slices.parquet").to_dict(as_series=False) == {
        "user_id": [1, 2],
        "warm": [True, False],
        "cold": [False, True],
    }


def test_table():
    ranks = made(users=2)
    for model, rank in (("llm_srec", 0), ("sasrec", 2), ("popularity", 30)):
        for split in SPLITS:
            ranks[model][split] = dict.fromkeys(PROTOCOLS, np.full(2, rank, dtype=np.int32))
    ranks["llm_srec"]["test_shuffled"]["uni99"] = np.array([0, 2], dtype=np.int32)
    evaluation = report.evaluation(ranks, {}, {})
    expected = """\
test                    uni99                          full
               NDCG@10    HR@10   shuffled   NDCG@10    HR@10   shuffled
LLM-SRec        1.0000   1.0000     -25.0%    1.0000   1.0000      +0.0%
SASRec          0.5000   1.0000      +0.0%    0.5000   1.0000      +0.0%
popularity      0.0000   0.0000      +0.0%    0.0000   0.0000      +0.0%
uni99: ranked among 7 sampled items; full: among all items; shuffled: change of NDCG@10"""
    assert report.table(evaluation, 7) == expected
    assert report.table(dict(sorted(evaluation.items())), 7) == expected  # as JSON brings it back


@pytest.mark.parametrize(
    "broken", [{"llm_srec": {}}, {"gru4rec": {}}, {"sasrec": {"test": {"uni99": 3}}}, [], {"sasrec": None}]
)
def test_a_table_of_something_else_is_an_error(broken):
    with pytest.raises(DataError, match=r"metrics/evaluation\.json.*dvc repro evaluate"):
        report.table(broken, 7)
