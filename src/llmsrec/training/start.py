"""What a warm training begins from: a registered version's weights, as the stage `start` leaves them.

    start.json           {"version": null}, or the version's name, its bundle's digest, its settings and its backbone
    items.parquet        the version's catalogue: item_id, parent_asin
    teacher.safetensors  SASRec's weights under their names there, item vectors [I + 1, d] included
    heads.safetensors    what LLM-SRec trains: heads, tokens and LoRA adapters, under their names there
    backbone/            an embedded backbone's files

An item is the same item if its parent_asin is: ids are numbered anew with each data set.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from llmsrec.errors import DataError, ParamsError
from llmsrec.files import read_json

RECORD, ITEMS, TEACHER, HEADS, BACKBONE = (
    "start.json", "items.parquet", "teacher.safetensors", "heads.safetensors", "backbone"
)  # fmt: skip
ITEM_TABLE = "item.weight"  # SASRec's item vectors
TOKENS = ("user_out", "item_out")
WEIGHTS = "weights.safetensors"  # a bundle's file of what is not elsewhere in it: `heads/<name>`, `teacher/<name>`


@dataclass(frozen=True)
class Start:
    """A version to begin from.

    Attributes:
        folder: where its weights lie.
        version: such as `shop/3`.
        bundle_sha256: its bundle's digest.
        settings: those that give the weights their shapes and meaning, under their names in params.yaml.
        backbone: what tells its language model from another, see `backbone_files.identity`.
    """

    folder: Path
    version: str
    bundle_sha256: str
    settings: dict[str, Any]
    backbone: str

    def check(self, settings: Mapping[str, Any]) -> None:
        """Compare settings, under their names in params.yaml, with the version's; those it does not know are passed.

        Raises:
            ParamsError: some differ; all of them are named.
        """
        other = [
            f"{name} is {value} here and {self.settings[name]} there"
            for name, value in settings.items()
            if name in self.settings and self.settings[name] != value
        ]
        if other:
            raise ParamsError(
                f"`train.start`: this training cannot begin from {self.version}: {', '.join(other)}. Set what differs "
                "to the version's values, or `train.start` to scratch."
            )

    def check_backbone(self, identity: str, model: str) -> None:
        """Raise ParamsError unless the language model is the version's, as its heads read no other's states."""
        if identity != self.backbone:
            raise ParamsError(
                f"`train.start`: this training cannot begin from {self.version}, which was trained with another "
                f"backbone than `backbone.model` {model} is now; set the version's backbone, or `train.start` to "
                "scratch."
            )

    def copy_backbone(self, folder: Path) -> None:
        """Put the version's embedded backbone into `folder`.

        Raises:
            ParamsError: the version has a backbone of another kind.
        """
        if not (self.folder / BACKBONE).is_dir():
            raise ParamsError(
                f"`train.start`: {self.version} was not trained with an embedded backbone; set `backbone.model` to the "
                "version's, or `train.start` to scratch."
            )
        shutil.copytree(self.folder / BACKBONE, folder, dirs_exist_ok=True)

    def fill_teacher(self, model: nn.Module, asins: Sequence[str]) -> int:
        """Give a new SASRec the version's weights; an item that the version does not know keeps its first values.

        Args:
            model: of the version's shapes (`check`).
            asins: parent_asin of items 1..I.

        Returns:
            How many of the items the version knows.
        """
        rows = pl.read_parquet(self.folder / ITEMS)
        theirs = dict(zip(rows["parent_asin"], rows["item_id"], strict=True))
        known = [(row, theirs[asin]) for row, asin in enumerate(asins, start=1) if asin in theirs]
        new, old = torch.tensor(known, dtype=torch.int64).reshape(-1, 2).T
        tensors = self._tensors(TEACHER)
        table = model.get_parameter(ITEM_TABLE)
        with torch.no_grad():
            table[new.to(table.device)] = tensors.pop(ITEM_TABLE)[old].to(table)
        self._fill({name: parameter for name, parameter in model.named_parameters() if name != ITEM_TABLE}, tensors)
        return len(known)

    def fill(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Give LLM-SRec's trainable parameters the version's values."""
        self._fill(parameters, self._tensors(HEADS))

    def _fill(self, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
        wrong = sorted(parameters.keys() ^ tensors.keys()) or [
            name for name, parameter in parameters.items() if parameter.shape != tensors[name].shape
        ]
        if wrong:
            raise DataError(
                f"the weights of {self.version} do not fit: {', '.join(wrong[:3])} is missing on one side, or its "
                "shape differs. Set the version's settings, or `train.start` to scratch."
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[name])

    def _tensors(self, name: str) -> dict[str, Tensor]:
        try:
            return load_file(self.folder / name)
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{self.folder / name} cannot be read ({error}); `dvc repro -f start` brings it again."
            ) from error


def read(folder: Path) -> Start | None:
    """What the stage `start` left in `folder`; None where a training begins from nothing.

    Raises:
        DataError: it is not there or cannot be read.
    """
    record = read_json(folder / RECORD)
    if record["version"] is None:
        return None
    return Start(folder, record["version"], record["bundle_sha256"], record["settings"], record["backbone"])


def shape_of(section: str, settings: Any, names: set[str]) -> dict[str, Any]:
    """`{"sasrec.dim": 64, ...}`: some of a section's settings under their names in params.yaml."""
    return {f"{section}.{name}": getattr(settings, name) for name in sorted(names)}
