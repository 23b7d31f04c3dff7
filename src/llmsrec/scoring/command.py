"""The command `llmsrec score`: its arguments, and what it does."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from llmsrec.errors import RequestError

if TYPE_CHECKING:
    from llmsrec.scoring.score import Summary, Wanted
    from llmsrec.serving.bundle import Bundle


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Give the parser what it takes."""
    source = command.add_mutually_exclusive_group()
    source.add_argument(
        "--model",
        default="staging",
        help="a version: shop/5, shop@staging, or 5 or staging of `registry.model` (default: %(default)s)",
    )
    source.add_argument("--bundle", type=Path, help="folder of a bundle, such as models/bundle")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="the parquet file; it appears whole")
    command.add_argument(
        "--histories",
        type=Path,
        metavar="FILE",
        help="parquet of user_id, parent_asin, timestamp in ms, or JSON lines of user_id, history; else data/filtered",
    )
    command.add_argument("--k", type=int, default=10, help="items for each user (default: %(default)s)")
    command.add_argument(
        "--tower", help="llm, cf, teacher or blend, as in `llmsrec recommend`; default: the model's first"
    )
    command.add_argument("--shard", default="1/1", metavar="I/N", help="only the I-th of N parts of the users")


def run(root: Path, options: argparse.Namespace) -> None:
    """Write the file, and print what is in it."""
    from llmsrec.scoring import histories
    from llmsrec.scoring.score import Wanted, score

    which, read = shard(options.shard), options.histories
    source = histories.of_file(read) if read else histories.of_data(root / "data/filtered")
    bundle, version = opened(root, options.model, options.bundle)
    wanted = Wanted(options.tower or bundle.towers[0], options.k, which)
    print(line(options.out, version, wanted, score(bundle, version, source, options.out, wanted)))


def shard(text: str) -> tuple[int, int]:
    """The i and n of `i/n`.

    Raises:
        RequestError: not two numbers, or i is not one of 1..n.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise RequestError(f"--shard is {text!r}; write i/n with i from 1 to n, such as 1/4, 2/4, 3/4 and 4/4.")
    return int(match[1]), int(match[2])


def line(out: Path, version: str, wanted: "Wanted", summary: "Summary") -> str:
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


def opened(root: Path, model: str, folder: Path | None) -> tuple["Bundle", str]:
    """The bundle in `folder`, named by its digest; without one, that of a version of the registry, such as `shop/3`.

    Args:
        model: a version's name (`registry.versions`); an alias is looked up once.
    """
    from llmsrec.files import read_json
    from llmsrec.serving.bundle import MANIFEST, Bundle

    if folder:
        return Bundle.open(folder), str(read_json(folder / MANIFEST)["bundle_sha256"])[:12]
    from llmsrec.registry import tracking

    place, version = tracking.opened(model, root)
    return Bundle.open(place), version
