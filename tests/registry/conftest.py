"""One registry for all tests here: a fresh database costs seconds."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

RECORD = {
    "digest": "d" * 64,
    "name": "Sample, embedded",
    "params": {"model.uniform": True, "model.weights.distill": 1.0, "backbone.revision": None},
    "evaluation": {
        "llm_srec": {"test": {"uni99": {"ndcg_10": 0.5, "cold": {"ndcg_10": 0.25}}}},
        "sasrec": {"test": {"uni99": {"ndcg_10": 0.4}}},
    },
    "curve": [{"step": step, "loss": 1 / step, "valid/uni99/ndcg_10": step / 1000} for step in range(1, 700)],
    "data": {"raw": "a" * 64, "split": "b" * 64},
    "tags": {"data.category": "Sample"},
}


@dataclass(frozen=True)
class Registry:
    """A repository's root with a registered bundle: version 1 of llm-srec, under the alias candidate."""

    root: Path
    record: Any
    run_id: str
    version: int
    bundle: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.root}/mlruns/mlflow.db"

    def other(self, digest: str) -> Any:
        """The record of another run."""
        return dataclasses.replace(self.record, digest=digest * 64)


@pytest.fixture(scope="session")
def registry(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    from llmsrec.registry import tracking
    from llmsrec.registry.record import Record

    root, plots = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("plots")
    (plots / "training.png").write_bytes(b"png")
    record = Record(**RECORD, files={"": [plots], "reports": [tiny.bundle / "parity.json"]})
    with tracking.connected(root) as client:
        place = tracking.experiment(client, "llm-srec", root)
        run_id = tracking.ensure_run(client, place, record)
        version = tracking.ensure_version(
            client, place, run_id, "llm-srec", tiny.bundle, {"data.category": "Sample"}, "A description."
        )
        client.set_registered_model_alias("llm-srec", "candidate", str(version))
    return Registry(root, record, run_id, version, tiny.bundle)
