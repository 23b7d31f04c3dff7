"""A tiny catalogue, backbone and teacher, made once."""

from pathlib import Path

import polars as pl
import pytest
import torch

from llmsrec.data.sequences import Sequences
from llmsrec.engine import backbone, embedded
from llmsrec.models.cf import sasrec
from llmsrec.params import Embedded, Model, Weights

TITLES = [f"{colour} {thing}" for colour in ("Red", "Blue", "Grün") for thing in ("Soap", "Hair Mask for Men", "Tent")]


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    settings = Embedded(vocab_size=320, hidden_size=16, layers=2, heads=2, steps=2, batch_size=2, lr=0.01, seed=3)
    embedded.train(TITLES, settings, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_backbone(backbone_folder: Path) -> backbone.Backbone:
    return backbone.load(backbone_folder)


@pytest.fixture(scope="session")
def teacher() -> sasrec.SASRec:
    model = sasrec.SASRec(items=len(TITLES), dim=8, blocks=1, heads=1, max_length=6, dropout=0.5)
    return model.initialise(torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def settings() -> Model:
    return Model(
        teacher="sasrec",
        d_prime=6,
        distill=True,
        uniform=True,
        distill_loss="mse",
        distill_normalize=False,
        weights=Weights(retrieval=1.0, cf_retrieval=0.0, distill=1.0, uniform=1.0),
        history=4,
        candidates=3,
        negatives="own",
        user_representation=False,
        date_format="YYYY/MM/DD",
        head_hidden=12,
        title_tokens=20,
        max_tokens=400,
    )


@pytest.fixture(scope="session")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    """Five users with one to six events."""
    rows = [(1, [1]), (2, [2, 3]), (3, [9, 1, 4, 5, 6, 7]), (4, [8, 7, 2]), (5, [5, 1, 9, 3])]
    events = [(u, i, 86_400_000 * (15_000 + 3 * k)) for u, items in rows for k, i in enumerate(items)]
    path = tmp_path_factory.mktemp("sequences") / "interactions.parquet"
    pl.DataFrame(events, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(path)
    return Sequences.read(path)
