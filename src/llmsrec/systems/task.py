"""What a system is given to be trained and ranked: the data of the main way, its settings and its places."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmsrec.data import held_out
from llmsrec.data.held_out import HeldOut
from llmsrec.data.sequences import Sequences
from llmsrec.evaluation import cases, report
from llmsrec.evaluation.cases import Cases
from llmsrec.files import require_parquet

DATA, MODELS, BACKBONE = Path("data"), Path("models"), Path("models/backbone")
Ranks = dict[str, dict[str, np.ndarray]]  # split -> protocol -> [n] int32, 0-based


@dataclass(frozen=True)
class Ranked:
    """What a system says of the users.

    Attributes:
        ranks: its own.
        beside: model -> the ranks of what it should be compared with on the same candidates, such as its control.
        user_vectors: what its user vectors look like (`report.describe`), if it has any.
        figures: split -> protocol -> metric -> more to report, such as the share of answers that name a candidate.
    """

    ranks: Ranks
    beside: dict[str, Ranks] = field(default_factory=dict)
    user_vectors: dict[str, float] = field(default_factory=dict)
    figures: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One system in one form.

    Attributes:
        system, form: their names, such as `tallrec` and `titles`.
        settings: systems/<system>.yaml, typed.
        params: those sections and keys of params.yaml that the stage lists.
        folder: what `train` writes and `rank` reads, all that the system needs beside the data and its teacher.
        resume: the folder that this training, and only this one, keeps its state in.
        root: the repository.
        device: where to compute.
        data: the folder of `filtered` and `split`.
        models: the folder of its teacher.
    """

    system: str
    form: str
    settings: Any
    params: Any
    folder: Path
    resume: Path
    root: Path
    device: str
    data: Path = DATA
    models: Path = MODELS

    @property
    def catalogue(self) -> Path:
        """The file of items 1..I."""
        return self.data / "filtered/items.parquet"

    @property
    def split(self) -> Path:
        """The folder of the split and its candidates."""
        return self.data / "split"

    @cached_property
    def interactions(self) -> Sequences:
        """All events that the filter left."""
        return Sequences.read(self.data / "filtered/interactions.parquet")

    @cached_property
    def sequences(self) -> Sequences:
        """The training events, in their order or shuffled within users."""
        return Sequences.read(self.split / "train.parquet", self.interactions.users)

    @property
    def items(self) -> int:
        """I; ids are 1..I."""
        return int(self.interactions.items.max())

    @cached_property
    def titles(self) -> list[str]:
        """Of items 1..I."""
        require_parquet(self.catalogue, ("title",), "`dvc repro` runs the stage that writes it")
        return pl.read_parquet(self.catalogue, columns=["title"])["title"].to_list()

    @cached_property
    def valid(self) -> HeldOut:
        """The validation split."""
        return held_out.read(self.interactions, self.split, "valid", self.params.split.by)

    @cached_property
    def cases(self) -> dict[str, Cases]:
        """What is ranked: `valid`, `test` and `test_shuffled`."""
        params = self.params
        return cases.read(self.interactions, self.split, params.split.by, params.data.repeats, params.evaluate.seed)

    def rank_vectors(self, vectors: dict[str, np.ndarray]) -> Ranked:
        """Ranks under uni99 and full by dot products.

        Args:
            vectors: `items` `[I + 1, d]`, and for each split `[n, d]` of its users.
        """
        ranks = {split: of.rank(vectors[split], vectors["items"]) for split, of in self.cases.items()}
        described = report.describe(vectors["test"], vectors["test_shuffled"], self.params.evaluate.seed)
        return Ranked(ranks, user_vectors=described)
