"""Amazon-Reviews-2023 from the Hugging Face hub: the two raw files of a category, at a pinned commit.

`hf_hub_download` starts from zero when its process was killed, and the largest of these files have 20 GB. So the parts
below it are used: the hub's metadata, and its download with a `Range`, which goes on from what is on disk.
"""

import difflib
import re
from pathlib import Path
from typing import Any

from filelock import FileLock
from httpx2 import HTTPError
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
from huggingface_hub.file_download import http_get

from llmsrec.errors import DataError
from llmsrec.files import sha256


def download(source: dict[str, Any], category: str, revision: str, cache: Path) -> tuple[Path, Path]:
    """The files of reviews and of items of a category; what is in `cache` is not fetched again.

    Args:
        source: the content of stages/sources/hub.json: `repository`, and the `categories` that it has.
        revision: commit of the repository, 40 hex digits.
        cache: folder that files, and what is there of a file, are kept in.

    Raises:
        DataError: an unknown category (the nearest one is named), or a file that cannot be fetched.
    """
    if category not in source["categories"]:
        lower = {name.lower(): name for name in source["categories"]}
        near = difflib.get_close_matches(category.lower(), lower, n=1, cutoff=0.0)[0]
        raise DataError(
            f"data.category: {category} is not a category of {source['repository']}; the nearest is {lower[near]}. "
            f"There are: {', '.join(source['categories'])}."
        )
    names = f"raw/review_categories/{category}.jsonl", f"raw/meta_categories/meta_{category}.jsonl"
    reviews, items = (_fetch(source["repository"], name, revision, cache / revision) for name in names)
    return reviews, items


def _fetch(repository: str, name: str, revision: str, folder: Path) -> Path:
    """One file of the repository, whole; goes on with the part that an interrupted download left."""
    target = folder / Path(name).name
    part = target.with_suffix(".part")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if target.exists():
            return target
        try:
            metadata = get_hf_file_metadata(hf_hub_url(repository, name, repo_type="dataset", revision=revision))
            done = part.stat().st_size if part.exists() else 0
            with part.open("ab") as handle:
                http_get(
                    metadata.location,
                    handle,
                    resume_size=done,
                    headers={"Accept-Encoding": "identity"},
                    expected_size=metadata.size,
                    displayed_filename=target.name,
                )
        except (RevisionNotFoundError, EntryNotFoundError) as error:
            raise DataError(
                f"{constants.ENDPOINT} has no {name} in {repository} at data.revision {revision}; check data.revision."
            ) from error
        except (HTTPError, OSError) as error:
            kept = part.stat().st_size if part.exists() else 0
            raise DataError(
                f"{name} of {repository} could not be fetched from {constants.ENDPOINT}: {error}. {kept:,} bytes are "
                "kept, the same command goes on from there; or put the files into data.dir and set data.source=files."
            ) from error
        _check(part, metadata.etag)
        part.replace(target)
    return target


def _check(part: Path, etag: str | None) -> None:
    """Compare with the hub's sha256 (the etag of a large file); a part that differs is removed.

    Raises:
        DataError: it differs.
    """
    if re.fullmatch("[0-9a-f]{64}", etag or "") and sha256(part) != etag:
        part.unlink()
        raise DataError(f"{part} is not what the hub has (sha256 differs) and was removed; run the same command again.")
