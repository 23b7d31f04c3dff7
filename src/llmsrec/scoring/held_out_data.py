"""The test users of a folder of data, with what they are ranked among: what `held_out.rank` asks a version about."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from llmsrec.data import held_out
from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError, RequestError
from llmsrec.evaluation import test_users
from llmsrec.files import read_json, require_parquet, sha256

INTERACTIONS, ITEMS, CANDIDATES = "interactions.parquet", "items.parquet", "candidates.parquet"
COLUMNS = {INTERACTIONS: ("user_id", "item_id", "timestamp"), ITEMS: ("item_id", "parent_asin")}
EXAMPLE = "it takes a folder like data or data/filtered, as `dvc repro split` leaves them"


@dataclass(frozen=True)
class HeldOutData:
    """Test users.

    Attributes:
        folder: where they were read from.
        users: as `test_users.of_data` gives them, and `negatives` (equally long lists of parent_asins) where the data
            keep some.
        filtered: digest of the folder with the interactions, as a bundle's config.json has it of its own.
        digest: names these users and candidates: equal digests, equal questions.
    """

    folder: Path
    users: pl.DataFrame
    filtered: str
    digest: str

    @property
    def negatives(self) -> int | None:
        """How many a target is ranked among in uni99; None without any."""
        return len(self.users["negatives"][0]) if "negatives" in self.users.columns else None


def read(folder: Path, most: int, seed: int) -> HeldOutData:
    """The users of `folder`/filtered, or of `folder` itself, and their negatives of split/ beside it.

    Args:
        most, seed: see `test_users.of_data`.

    Raises:
        RequestError: not a folder.
        DataError: it holds no test users, or files that cannot be read or are of other data.
    """
    if not folder.is_dir():
        raise RequestError(f"--on {folder} is not a folder; {EXAMPLE}.")
    filtered = folder / "filtered" if (folder / "filtered").is_dir() else folder
    for name, columns in COLUMNS.items():
        require_parquet(filtered / name, columns, EXAMPLE)
    if not pl.scan_parquet(filtered / INTERACTIONS).select(pl.len()).collect().item():
        raise DataError(f"{filtered / INTERACTIONS} holds no events, so there are no test users; {EXAMPLE}.")
    split = filtered.parent / "split"
    manifest = read_json(split / "manifest.json") if (split / "manifest.json").is_file() else {}
    by = "time" if "time" in manifest else "last"
    test = held_out.read(Sequences.read(filtered / INTERACTIONS), split, "test", by)
    users = test_users.of_data(filtered, most, seed, test)
    if not len(users):
        raise DataError(f"no user of {split / 'test.parquet'} has events to be asked about; {EXAMPLE}.")
    candidates = split / CANDIDATES
    files = [sha256(filtered / INTERACTIONS), sha256(filtered / ITEMS)]
    if candidates.is_file():
        users = _with_negatives(users, candidates, filtered / ITEMS)
        files.append(sha256(candidates))
    digest = hashlib.sha256(json.dumps([files, most, seed]).encode()).hexdigest()
    return HeldOutData(folder, users, sha256(filtered), digest)


def _with_negatives(users: pl.DataFrame, path: Path, items: Path) -> pl.DataFrame:
    require_parquet(path, ("user_id", "split", "item_id", "negatives"), EXAMPLE)
    asins = pl.read_parquet(items).sort("item_id")["parent_asin"]
    rows = pl.scan_parquet(path).filter(pl.col("split") == "test", pl.col("user_id").is_in(users["user_id"].implode()))
    stored = users.select("user_id", "target").join(rows.collect(), on="user_id", how="left", maintain_order="left")
    widths = stored["negatives"].list.len()
    fits = stored["item_id"].null_count() == 0 and widths.n_unique() == 1 and widths[0] > 0
    numbers = stored["negatives"].explode() if fits else pl.Series([0])
    if not fits or numbers.min() < 1 or max(numbers.max(), stored["item_id"].max()) > len(asins):  # type: ignore[operator, type-var]
        fits = False
    if not fits or not (asins.gather(stored["item_id"] - 1) == stored["target"]).all():
        raise DataError(f"{path} is not of the same data as {items.parent}; `dvc repro split` writes it anew.")
    ends = asins.gather(numbers - 1).reshape((len(stored), widths[0])).arr.to_list()
    return users.with_columns(negatives=ends)
