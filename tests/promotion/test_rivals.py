"""The compared system that a version must not be worse than, from a real registry."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from llmsrec import params, systems
from llmsrec.errors import DataError
from llmsrec.evaluation import report
from llmsrec.promotion import facts, gate, rivals
from llmsrec.registry import record, tracking

SPLITS, PROTOCOLS = ("valid", "test", "test_shuffled"), ("full", "uni99")
PAIRED = {"interactions.parquet": "i" * 64, "candidates.parquet": "c" * 64}
LIMITS = params.load(Path(__file__).parents[2] / "params.yaml").registry.gate
GOOD, FAIR, POOR = [0, 0, 0, 50], [0, 0, 50, 50], [0, 50, 50, 50]


def ranks(model: str, placed: list[int]) -> report.Ranks:
    table = np.array(placed, dtype=np.int32)
    return {model: {split: dict.fromkeys(PROTOCOLS, table) for split in SPLITS}}


@pytest.fixture(scope="module")
def registry_of_systems(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A version with SASRec's ranks; GRU4Rec better than SASRec, CTRL worse; TALLRec of other candidates."""
    root = tmp_path_factory.mktemp("systems")

    def log(client: Any, place: str, model: str, placed: list[int], paired: dict[str, str]) -> str:
        folder = tmp_path_factory.mktemp(model)
        report.write_ranks(folder / "ranks.parquet", ranks(model, placed))
        entry = record.Record(
            digest=model * 3,
            name=model,
            params={},
            evaluation=report.evaluation(ranks(model, placed), {}, {}),
            curve=[],
            tags={record.SYSTEM: model, record.FORM: "retrieval"} | record.paired(paired),
            files={"reports": [folder / "ranks.parquet"]},
            model=model,
        )
        return tracking.ensure_run(client, place, entry)

    with tracking.connected(root) as client:
        place = tracking.experiment(client, "llm-srec", root)
        run_id = client.create_run(place).info.run_id
        for model, placed, paired in (
            ("gru4rec", GOOD, PAIRED),
            ("ctrl", POOR, PAIRED),
            ("tallrec", GOOD, {**PAIRED, "candidates.parquet": "o" * 64}),
        ):
            log(client, place, model, placed, paired)
    return root, run_id


@pytest.fixture
def client(registry_of_systems: Any) -> Any:
    with tracking.existing(registry_of_systems[0], "") as client:
        yield client


def ours(tmp_path: Path, sasrec: list[int]) -> facts.Evaluated:
    import polars as pl

    report.write_ranks(tmp_path / "ranks.parquet", ranks("llm_srec", FAIR) | ranks("sasrec", sasrec))
    interval = {"resamples": 50, "seed": 0}
    comparison = {"paired_by": PAIRED, "interval": interval}
    frame = pl.read_parquet(tmp_path / "ranks.parquet")
    return facts.Evaluated(1, {}, comparison, frame, pl.DataFrame({"user_id": [1, 2, 3, 4]}), None)


def test_every_system_may_be_named() -> None:
    assert set(get_args(params.Against)) == {"sasrec", "best", *systems.MODULES}


def test_the_best_is_chosen_by_validation_among_the_same_candidates(
    client: Any, registry_of_systems: Any, tmp_path: Path
) -> None:
    _, run_id = registry_of_systems
    actual = rivals.find(client, run_id, ours(tmp_path, FAIR), "best")
    assert actual is not None and actual.system == "gru4rec"
    assert actual.scores.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert rivals.find(client, run_id, ours(tmp_path, GOOD), "best") is None  # SASRec is
    assert rivals.find(client, run_id, ours(tmp_path, GOOD), "sasrec") is None
    named = rivals.find(client, run_id, ours(tmp_path, GOOD), "ctrl")
    assert named is not None and named.system == "ctrl"
    with pytest.raises(DataError, match=r"no run of tallrec is of the same users and candidates; `dvc repro baselines"):
        rivals.find(client, run_id, ours(tmp_path, GOOD), "tallrec")


def test_a_version_that_is_worse_than_the_rival_is_refused(
    client: Any, registry_of_systems: Any, tmp_path: Path
) -> None:
    version = ours(tmp_path, POOR)
    rival = rivals.find(client, registry_of_systems[1], version, "best")
    figures = list(gate.quality(version, None, "staging", LIMITS, rival))  # type: ignore[arg-type]
    failed = [figure.name for figure in figures if figure.holds is False]
    assert failed and all("GRU4Rec" in name for name in failed)
    assert all(figure.holds is not False for figure in gate.quality(version, None, "staging", LIMITS))  # type: ignore[arg-type]


def by_itself(tmp_path: Path, system: str, placed: list[int]) -> facts.Evaluated:
    """A version that is a compared system itself, in the experiment that has its run."""
    import dataclasses

    import polars as pl

    report.write_ranks(tmp_path / f"{system}.parquet", ranks(system, placed))
    of = ours(tmp_path, FAIR)
    comparison = of.comparison | {"model": system, "teacher": system}
    return dataclasses.replace(of, comparison=comparison, ranks=pl.read_parquet(tmp_path / f"{system}.parquet"))


def test_a_system_by_itself_is_no_rival_of_its_own(client: Any, registry_of_systems: Any, tmp_path: Path) -> None:
    run_id = registry_of_systems[1]
    gru4rec, ctrl = by_itself(tmp_path, "gru4rec", GOOD), by_itself(tmp_path, "ctrl", POOR)
    assert rivals.find(client, run_id, gru4rec, "gru4rec") is None
    assert rivals.find(client, run_id, gru4rec, "best") is None, "the others are no better"
    best = rivals.find(client, run_id, ctrl, "best")
    assert best and best.system == "gru4rec" and best.scores.tolist() == [1, 1, 1, 0]
