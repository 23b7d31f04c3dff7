"""What `llmsrec score` does with its options."""

import re
from pathlib import Path

from llmsrec.errors import RequestError
from llmsrec.files import read_json
from llmsrec.scoring import histories
from llmsrec.scoring.score import Summary, Wanted, score
from llmsrec.serving.bundle import MANIFEST, Bundle


def run(root: Path, model: str, bundle: Path | None, out: Path, read: Path | None, wanted: Wanted) -> str:
    """Score, and return the line that says what came of it.

    Args:
        model: URI of a version; not looked at where `bundle` is given.
        read: a file of histories; without it all users of the data.
    """
    source = histories.of_file(read) if read else histories.of_data(root / "data/filtered")
    folder, version = (bundle, _digest_of(bundle)) if bundle else _registered(root, model)
    return line(out, version, wanted, score(Bundle.open(folder), version, source, out, wanted))


def shard(text: str) -> tuple[int, int]:
    """The i and n of `i/n`.

    Raises:
        RequestError: not two numbers, or i is not one of 1..n.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise RequestError(f"--shard is {text!r}; write i/n with i from 1 to n, such as 1/4, 2/4, 3/4 and 4/4.")
    return int(match[1]), int(match[2])


def line(out: Path, version: str, wanted: Wanted, summary: Summary) -> str:
    """The summary as one line."""
    counts = summary.counts
    said = [
        f"{out}: {counts['rows']:,} rows of {counts['users']:,} users by {version}, tower {wanted.tower}",
        f"{summary.rate:,.0f} users/s" + (f" ({summary.resumed:,} users were done before)" if summary.resumed else ""),
        f"{counts['unknown']:,} unknown items skipped",
        f"{counts['popular']:,} users got the popular items",
    ]
    if counts["short"]:
        said.append(f"{counts['short']:,} have fewer than {wanted.k}, as their histories leave no more")
    return "; ".join(said)


def _registered(root: Path, uri: str) -> tuple[Path, str]:
    """The bundle and the name, such as `shop/3`, of what an alias stands for now, or of a version."""
    from llmsrec.registry import names, tracking

    match = re.fullmatch(r"models:/([^/@]+)(?:/\d+|@.+)", uri)
    if not match:
        raise RequestError(f"--model is {uri!r}; write models:/<name>@<alias> or models:/<name>/<version>.")
    with tracking.existing(root, "Run the command again") as client:
        version = names.find(client, root, match[1], uri).version
    return tracking.bundle_of(f"models:/{version}", root), str(version)


def _digest_of(bundle: Path) -> str:
    """How a bundle that no registry numbered is named."""
    Bundle.open(bundle)
    return str(read_json(bundle / MANIFEST)["bundle_sha256"])[:12]
