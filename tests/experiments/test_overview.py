"""All systems beside LLM-SRec, from tables of ranks made by hand."""

import re

import numpy as np
import polars as pl
import pytest

from llmsrec.errors import DataError
from llmsrec.evaluation import report, tables
from llmsrec.evaluation.names import PROTOCOLS, TITLES
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.experiments import overview
from llmsrec.files import write_json

SPLITS = ("valid", "test", "test_shuffled")


def ranks(first, protocols=tuple(PROTOCOLS)):
    return {split: {p: np.array(first, dtype=np.int32) for p in protocols} for split in SPLITS}


@pytest.fixture
def reports(tmp_path):
    worse, best = [0, 99, 99, 99], [0, 0, 0, 99]
    report.write_ranks(tmp_path / "ranks.parquet", {"llm_srec": ranks(best), "sasrec": ranks(worse)})
    report.write_ranks(tmp_path / "ranks/gru4rec-retrieval.parquet", {"gru4rec": ranks(worse)})
    titles = {"tallrec": ranks([0, 1, 1, 1], TITLES), "sasrec": ranks([0, 0, 1, 1], ("uni19",))}
    report.write_ranks(tmp_path / "ranks/tallrec-titles.parquet", titles)
    write_json(
        tmp_path / "ranks/tallrec-titles.json", {"tallrec": {"test": {"uni19_generated": {"valid_ratio": 0.75}}}}
    )
    return tmp_path


def test_each_system_stands_once_with_its_difference(reports):
    text = tables.text(overview.tables(overview.read(reports), 99, Bootstrap(200, 0), reports / "ranks"))
    lines = {line.split("  ")[1].strip(): line for line in text.splitlines() if line.startswith("  ")}
    assert "0.7500" in lines["LLM-SRec"] and "0.2500" in lines["GRU4Rec"] and "+0.5000" in lines["GRU4Rec"]
    assert text.count("GRU4Rec") == 1
    assert "75.0%" in lines["TALLRec"] and "0.2500" in lines["TALLRec"]


def test_ranks_of_other_users_are_refused(reports):
    other = {"bert4rec": {split: {"full": np.zeros(9, dtype=np.int32)} for split in SPLITS}}
    report.write_ranks(reports / "ranks/bert4rec-retrieval.parquet", other)
    with pytest.raises(DataError, match="of other users"):
        overview.read(reports)


def test_without_the_main_way_there_is_nothing_to_show(tmp_path):
    with pytest.raises(DataError, match=r"ranks\.parquet is not there"):
        overview.read(tmp_path)


@pytest.mark.parametrize(
    ("file", "makes"),
    [
        ("ranks.parquet", "`dvc repro evaluate`"),
        ("ranks/gru4rec-retrieval.parquet", "`dvc repro baselines/dvc.yaml:rank@gru4rec-retrieval`"),
    ],
)
def test_ranks_that_were_cut_off_are_one_error(reports, file, makes):
    path = reports / file
    whole = path.read_bytes()
    for bytes_left in (0, len(whole) // 2):
        path.write_bytes(whole[:bytes_left])
        with pytest.raises(DataError, match=rf"{re.escape(str(path))} cannot be read as parquet: .*; {makes}"):
            overview.read(reports)
    pl.DataFrame({"user_id": [1]}).write_parquet(path)
    with pytest.raises(DataError, match=r"has no column model, split, protocol, rank; "):
        overview.read(reports)
