"""A registry: version 1 of `gated` with evidence of what the tiny model really does, and 2, which extends it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from llmsrec import cli
from llmsrec.registry import tracking, verified
from llmsrec.scoring import held_out
from llmsrec.serving.bundle import Bundle
from tests.conftest import Tiny, make_tiny
from tests.registry.made import register_gated, test_users_of, with_registry

NEW = [
    {"parent_asin": "N1", "title": "Bottle no 7 of rose water"},
    {"parent_asin": "N2", "title": "Crate &amp; jar of rose\u200b soap ", "store": " Shop 9 ", "category": "Home"},
    {"parent_asin": "N3", "title": "Bottle no 8 of water", "categories": ["Home", "Shelf 1"], "price": 3},
]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@dataclass(frozen=True)
class Extended:
    """`added` is what the command printed."""

    root: Path
    client: MlflowClient
    added: str

    def bundle(self, version: int) -> Bundle:
        registered = self.client.get_model_version("gated", str(version))
        return Bundle.open(verified.verified(self.client, registered) / "artifacts/bundle")


@pytest.fixture(scope="session")
def extended(tiny: Any, registry: Any, tmp_path_factory: pytest.TempPathFactory) -> Extended:
    return extend(tiny, registry, tmp_path_factory)


@pytest.fixture(scope="session")
def titled(registry: Any, tmp_path_factory: pytest.TempPathFactory) -> Extended:
    """The same with a teacher that knows titles."""
    return extend(make_tiny(tmp_path_factory.mktemp("titled"), titled=True), registry, tmp_path_factory)


def extend(tiny: Tiny, registry: Any, tmp_path_factory: pytest.TempPathFactory) -> Extended:
    root = with_registry(tmp_path_factory.mktemp("extended"), registry)
    full = held_out.rank(Bundle.open(tiny.bundle), test_users_of(0), "llm").ranks["full"]
    with tracking.connected(root) as client:
        register_gated(client, root, tmp_path_factory.mktemp("made"), tiny, 1, 2, True, full=full)
        client.set_registered_model_alias("gated", "staging", "1")
        client.set_registered_model_alias("gated", "candidate", "1")
    client, capture = MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db"), pytest.MonkeyPatch()
    with capture.context() as patch:
        import contextlib
        import io

        patch.setenv("DVC_ROOT", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            file = write(root / "new.jsonl", NEW)
            assert cli.main(["items", "add", str(file), "--model", "models:/gated@staging"]) == 0
    return Extended(root, client, said.getvalue())
