"""Files that are either whole or not there: atomic writes, JSON, parquet and digests."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmsrec.errors import DataError, LLMSRecError, json_in_words, refusal

UMASK = os.umask(0o022)
os.umask(UMASK)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure `path` stays as it was.

    Raises:
        DataError: the file cannot be written (a full disk, a missing permission).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.chmod(0o666 & ~UMASK)  # some libraries make their files private to their owner
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except LLMSRecError:
        raise
    except Exception as error:
        known = refusal(error)
        if known is None and not isinstance(error, OSError):
            raise
        reason, remedy = known or (getattr(error, "strerror", None) or error, "free some space or fix the permissions")
        raise DataError(
            f"cannot write {path}: {reason}. What was there before is unchanged; {remedy}, then run the same command "
            "again."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, so that equal values are equal files."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there; run the stage that writes it (`dvc repro`).") from error
    except ValueError as error:
        raise DataError(
            f"{path} is not valid JSON: {json_in_words(error)}; delete it and run its stage again."
        ) from error


def require_parquet(path: Path, columns: Iterable[str], remedy: str) -> None:
    """See that a parquet file is there, is whole, as far as its end tells, and has some columns.

    Args:
        remedy: what helps where it is not so: the end of a sentence.

    Raises:
        DataError: it is not so.
    """
    import polars as pl  # which what writes JSON alone need not wait for

    if not path.is_file():
        raise DataError(f"{path} is not there; {remedy}.")
    try:
        present = pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}; {remedy}.") from error
    missing = [name for name in columns if name not in present]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}; {remedy}.")


def tree(folder: Path, bytecode: bool = False) -> dict[str, str]:
    """Relative name and sha256 of each file below a folder, sorted by name; the folder itself may be reached by a link.

    Args:
        bytecode: pass over `__pycache__` folders, for a process that runs this very code and so fills them.

    Raises:
        DataError: something that a list of digests does not vouch for: a link, Python's bytecode (it is run in place of
            the source beside it), or what is neither a file nor a folder.
    """
    files: dict[str, str] = {}
    for place in sorted(folder.iterdir()):
        name, remedy = place.name, f"delete it, or take {folder} from its source again."
        if place.is_symlink():
            raise DataError(
                f"{place} is a link, which may point to something else tomorrow; {remedy} If DVC made it, set its "
                "cache.type to hardlink or copy, then run `dvc checkout --relink`."
            )
        if name == "__pycache__" and place.is_dir() and bytecode:
            continue
        if name == "__pycache__" or place.suffix in (".pyc", ".pyo"):
            raise DataError(f"{place} is bytecode, which Python would run instead of the source beside it; {remedy}")
        if place.is_dir():
            files |= {f"{name}/{below}": digest for below, digest in tree(place, bytecode).items()}
        elif place.is_file():
            files[name] = sha256(place)
        else:
            raise DataError(f"{place} is neither a file nor a folder; {remedy}")
    return dict(sorted(files.items()))


def sha256(path: Path) -> str:
    """Hex digest of a file, or of a folder: the sorted relative names and contents of all files below it."""
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
