"""Where items' keys and values are kept: in memory, or in a file whose content is checked before it is used."""

import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from llmsrec.errors import DataError

KNOWN = 1 << 32  # added to an item's checksum, so that no checksum is 0, which means: not there yet
FOLDER = Path(".cache/prefixes")  # of a repository: keys and values of item prompts, by digest


@dataclass(frozen=True)
class Budget:
    """Bytes that keys and values may take.

    Attributes:
        memory: up to so many are kept in memory.
        disk: up to so many, else, in a file of `folder`; older files of other models go first.
        folder: None for no files.
    """

    memory: int = 2 << 30
    disk: int = 0
    folder: Path | None = None

    @classmethod
    def of(cls, settings: Any, root: Path) -> "Budget":
        """From params.yaml's `backbone.prefixes`, for a repository, whose stages share what is kept."""
        return cls.gib(settings, root / FOLDER)

    @classmethod
    def gib(cls, settings: Any, folder: Path) -> "Budget":
        """From params.yaml's `backbone.prefixes`, which is in GiB."""
        return cls(int(settings.memory * 2**30), int(settings.disk * 2**30), folder)


class Store(Protocol):
    """Rows `[tokens, *row]` of items, whose numbers of tokens are known beforehand."""

    def missing(self, item_ids: Tensor) -> Tensor:
        """Which of `[n]` items have to be put first."""

    def put(self, item_ids: Tensor, rows: Tensor) -> None:
        """Take in the rows of items, one item's after the other's."""

    def get(self, item_ids: Tensor) -> tuple[Tensor, Tensor] | None:
        """Rows that hold those of the items, and `[n]` where each item's begin; None where some are missing again."""


class Memory:
    """In memory, on the device of the rows."""

    def __init__(self, lengths: Tensor, sample: Tensor) -> None:
        self._lengths = lengths
        self._offsets = lengths.cumsum(0) - lengths
        self._rows = sample.new_empty((int(lengths.sum()), *sample.shape[1:]))
        self._known = torch.zeros_like(lengths, dtype=torch.bool)

    def missing(self, item_ids: Tensor) -> Tensor:
        return item_ids[~self._known[item_ids]]

    def put(self, item_ids: Tensor, rows: Tensor) -> None:
        lengths = self._lengths[item_ids]
        shifts = self._offsets[item_ids] - (lengths.cumsum(0) - lengths)
        self._rows[shifts.repeat_interleave(lengths) + torch.arange(len(rows), device=rows.device)] = rows
        self._known[item_ids] = True

    def get(self, item_ids: Tensor) -> tuple[Tensor, Tensor]:
        return self._rows, self._offsets[item_ids]


class File:
    """In a file: a checksum for each item, then the rows of all items.

    Rows are written before their checksum, so that a killed process leaves nothing half-written that counts. A damaged
    item is noticed whenever it is read, also where the file changed while it was in use, and computed again. What is
    read is copied out of the file, so that it takes no memory but the operating system's cache.

    Raises:
        DataError: the file cannot be made.
    """

    def __init__(self, path: Path, lengths: Tensor, sample: Tensor) -> None:
        self._path, self._lengths, self._sample = path, lengths.cpu().numpy(), sample[:0]
        self._row_bytes = sample.element_size() * sample[0].numel()
        table = 8 * len(self._lengths)
        ends = self._lengths.cumsum() * self._row_bytes + table
        self._starts = ends - self._lengths * self._row_bytes
        size = int(ends[-1])
        if path.exists() and path.stat().st_size != size:
            print(f"warning: {path} is damaged (its size is {path.stat().st_size:,}); it is made again.", flush=True)
            path.unlink()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.posix_fallocate(self._file, 0, size)
        except OSError as error:
            raise DataError(
                f"cannot write {path}, {size:,} bytes: {error.strerror}; free some space, or set "
                "`backbone.prefixes.disk` to 0 and compute items' prefixes at each use."
            ) from error
        self._checksums = np.frombuffer(os.pread(self._file, table, 0), dtype=np.int64).copy()
        self._checked = np.zeros(len(self._lengths), dtype=bool)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def missing(self, item_ids: Tensor) -> Tensor:
        ids = item_ids.cpu().numpy()
        for item in np.unique(ids[~self._checked[ids]]).tolist():
            if not self._checksums[item]:
                continue
            self._checked[item] = self._whole(item, self._read(item))
        return item_ids[torch.from_numpy(~self._checked[ids]).to(item_ids.device)]

    def put(self, item_ids: Tensor, rows: Tensor) -> None:
        content = memoryview(rows.cpu().contiguous().view(torch.uint8).numpy().reshape(-1))  # type: ignore[arg-type]
        start = 0
        for item in item_ids.tolist():
            part = content[start : start + int(self._lengths[item]) * self._row_bytes]
            start += len(part)
            self._write(part, int(self._starts[item]))
            self._checksums[item] = self._checksum(part)
            self._write(memoryview(self._checksums[item].tobytes()), 8 * item)
            self._checked[item] = True

    def get(self, item_ids: Tensor) -> tuple[Tensor, Tensor] | None:
        ids = item_ids.cpu().numpy()
        parts = {item: self._read(item) for item in np.unique(ids).tolist()}
        for item, part in parts.items():
            self._checked[item] = self._whole(item, part)
        if not self._checked[ids].all():
            return None
        content = bytearray().join(parts[item] for item in ids.tolist())
        rows = torch.frombuffer(content, dtype=self._sample.dtype).view(-1, *self._sample.shape[1:])
        lengths = self._lengths[ids]
        return rows.to(self._sample.device), torch.from_numpy(lengths.cumsum() - lengths).to(item_ids.device)

    def _read(self, item: int) -> bytes:
        return os.pread(self._file, int(self._lengths[item]) * self._row_bytes, int(self._starts[item]))

    def _whole(self, item: int, content: bytes) -> bool:
        if self._checksum(content) == self._checksums[item]:
            return True
        print(f"warning: item {item} in {self._path} is damaged; it is computed again.", flush=True)
        return False

    def _write(self, content: memoryview, place: int) -> None:
        while len(content):
            written = os.pwrite(self._file, content, place)
            content, place = content[written:], place + written

    @staticmethod
    def _checksum(content: bytes | memoryview) -> int:
        return KNOWN + zlib.crc32(content)


def digest(model: nn.Module, token_ids: Sequence[np.ndarray]) -> str:
    """Hex sha256 of all that keys and values follow from: the weights and the configuration of the model, and the
    items' token ids, which follow from tokenizer, template and titles.
    """
    hasher = hashlib.sha256(model.config.to_json_string(use_diff=False).encode())  # type: ignore[operator, union-attr]
    for name, tensor in model.state_dict().items():
        hasher.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        hasher.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    for part in token_ids:
        hasher.update(np.ascontiguousarray(part).data)
    return hasher.hexdigest()


def make_room(folder: Path, keep: Path, size: int, limit: int) -> None:
    """Remove the files of `folder` that were used longest ago, but for `keep`, until `size` more bytes fit `limit`."""
    others = sorted((p for p in folder.glob("*.kv") if p != keep), key=lambda p: p.stat().st_mtime)
    total = size + sum(p.stat().st_size for p in others)
    for path in others:
        if total <= limit:
            return
        total -= path.stat().st_size
        path.unlink(missing_ok=True)


def groups(lengths: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Items 1..I in groups of `size` of like length: those that are computed together, whoever asks first.

    The last bits of a product depend on what else is in a batch; so an item's keys and values are the same in any run.
    """
    order = 1 + np.argsort(lengths[1:], kind="stable")
    yield from np.split(order, range(size, len(order), size))
