"""One registry for all tests: a fresh database costs seconds."""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmsrec.files import write_json
from llmsrec.serving.bundle import seal

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
    from llmsrec.registry import card, tracking
    from llmsrec.registry.record import Record

    root, plots = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("plots")
    (plots / "training.png").write_bytes(b"png")
    record = Record(**RECORD, files={"": [plots], "reports": [tiny.bundle / "parity.json"]})
    with tracking.connected(root) as client:
        place = tracking.experiment(client, "llm-srec", root)
        run_id = tracking.ensure_run(client, place, record)
        tags = {"data.category": "Sample"}
        version = tracking.ensure_version(client, place, run_id, "llm-srec", tiny.bundle, tags)
        card.attach(client, "llm-srec", version, "A description.")
        client.set_registered_model_alias("llm-srec", "candidate", str(version))
    return Registry(root, record, run_id, version, tiny.bundle)


def copied(registry: Registry, root: Path) -> Path:
    """An empty folder with a copy of the database, so that no other test meets what is changed in it."""
    (root / "mlruns").mkdir()
    shutil.copy(registry.root / "mlruns/mlflow.db", root / "mlruns")
    return root


@dataclass(frozen=True)
class Pair:
    """The full model and one without uniformity in a registry of its own, as the pipeline leaves them.

    `ranks` are theirs: run id -> [user_id, model, split, protocol, rank].
    """

    root: Path
    full: str
    ablated: str
    ranks: dict[str, Any]

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.root}/mlruns/mlflow.db"


@pytest.fixture(scope="session")
def pair(tiny: Any, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The versions are `compared`'s 1 and 2."""
    import subprocess

    from llmsrec import params as parameters
    from llmsrec.registry import record, tracking

    root = copied(registry, tmp_path_factory.mktemp("pair"))
    text = (Path(__file__).parents[1] / "params.yaml").read_text().replace("model: llm-srec", "model: compared")
    (root / "params.yaml").write_text(text)
    committed, runs, ranks = record.flatten(parameters.load(root / "params.yaml").model_dump()), [], {}
    with tracking.connected(root) as client:
        place = tracking.experiment(client, "llm-srec", root)
        for version, (uniform, name) in enumerate([("true", None), ("false", "tubby-gobs")], start=1):
            made = tmp_path_factory.mktemp("made")
            (made / "params.yaml").write_text(text.replace("  uniform: true", f"  uniform: {uniform}"))
            params = parameters.load(made / "params.yaml")
            evaluation = _evaluate(made, seed=version)
            entry = record.Record(
                digest=f"pair{version}" * 12,
                name=record.title(params, name, committed),
                params=record.used(params),
                evaluation=evaluation,
                curve=[{"step": 20 * step, "epoch": step / 2, "loss": 2 / step} for step in range(1, 4)],
                tags={"dvc.experiment": name or ""},
                files={
                    "": [made / "params.yaml"],
                    "reports": [made / "ranks.parquet", made / "slices.parquet"],
                    **{f"data/{part}": [made / part / "manifest.json"] for part in ("filtered", "split")},
                },
            )
            run_id = tracking.ensure_run(client, place, entry)
            bundle = tiny.bundle
            if version == 2:
                bundle = Path(shutil.copytree(tiny.bundle, made / "bundle"))
                (bundle / "parity.json").write_text("{}")
                seal(bundle)
            tracking.ensure_version(client, place, run_id, "compared", bundle, {})
            runs.append(run_id)
            ranks[run_id] = pl.read_parquet(made / "ranks.parquet")
        client.set_registered_model_alias("compared", "staging", "1")
    (root / "metrics").mkdir()
    for name, number in (("exps", 2), ("HEAD", 1)):
        write_json(
            root / "metrics/registered.json", {"name": "compared", "version": number, "run_id": runs[number - 1]}
        )
        for command in (
            ("init", "-q"),
            ("add", "metrics"),
            ("-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-qm", name),
            *([("update-ref", "refs/exps/ab/cd12/tubby-gobs", "HEAD")] if name == "exps" else []),
        ):
            subprocess.run(["git", *command], cwd=root, check=True)
    return Pair(root, runs[0], runs[1], ranks)


def _evaluate(folder: Path, seed: int, users: int = 60) -> Any:
    """What the data and evaluate stages write: ranks that are better for smaller seeds, slices, manifests."""
    import numpy as np

    from llmsrec.evaluation import report

    splits, protocols = ("valid", "test", "test_shuffled"), ("full", "uni99")
    rng, teacher = np.random.default_rng(seed), np.random.default_rng(0)
    ranks = {
        model: {
            split: {protocol: random.integers(0, width, users).astype(np.int32) for protocol in protocols}
            for split in splits
        }
        for model, random, width in (("llm_srec", rng, 10 * seed), ("sasrec", teacher, 12), ("popularity", teacher, 40))
    }
    slices = {"warm": np.arange(users) % 3 == 0, "cold": np.arange(users) % 3 == 1}
    report.write_ranks(folder / "ranks.parquet", ranks)
    report.write_slices(folder / "slices.parquet", slices)
    write_json(folder / "filtered/manifest.json", {"outputs": {"interactions.parquet": "i" * 64}})
    write_json(folder / "split/manifest.json", {"outputs": {"candidates.parquet": "c" * 64}})
    return report.evaluation(ranks, slices, {})
