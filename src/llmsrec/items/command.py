"""The command `llmsrec items add`: its arguments, and what it does."""

import argparse
import shutil
import tempfile
from pathlib import Path

from llmsrec.errors import RequestError
from llmsrec.files import write_json


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Give the parser what it takes."""
    given = command.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "file", type=Path, nargs="?", help="JSON lines of parent_asin, title and, if known, store and categories"
    )
    given.add_argument(
        "--from", dest="other", metavar="VERSION",
        help="instead of a file: the items that were added to this version and that --model does not have",
    )  # fmt: skip
    command.add_argument(
        "--model",
        default="staging",
        help="the version that gets them: shop/5, shop@staging, or 5 or staging of `registry.model` "
        "(default: %(default)s)",
    )


def run(root: Path, options: argparse.Namespace) -> None:
    """Register a version with the items of a file beside its own, and print what they cost and what comes next.

    Nothing is registered before all of it is measured.

    Raises:
        RequestError: no such version, one that reads no titles, nothing to add, or no torch here.
        DataError: a line of the file that cannot be used, or a version that is not what was registered, keeps no
            evidence or whose backbone is not that of its training.
    """
    import polars as pl

    from llmsrec import params as parameters
    from llmsrec.export import extended
    from llmsrec.items import cost, lines
    from llmsrec.promotion import evidence
    from llmsrec.registry import extension, tracking, versions
    from llmsrec.registry.record import ADDED
    from llmsrec.serving.bundle import Bundle

    settings = parameters.load(root / "params.yaml")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with tracking.existing(root, "Run the command again") as client:
            version = versions.find(client, *versions.of(options.model, None, settings.registry.model))
            name = f"{version.name}/{version.version}"
            evaluated = evidence.evaluated(client, version, folder)
            evidence.model(client, version, folder / "model")
        bundle = Bundle.open(folder / "model/artifacts/bundle")
        if "llm" not in bundle.towers:
            raise RequestError(
                f"{name} is {bundle.teacher} by itself, which reads no titles, so it gets no items by them; name a "
                "version of LLM-SRec with --model, or train anew with the new items."
            )
        if options.other is None:
            added = lines.read(options.file, bundle.items["parent_asin"])
        else:
            with tracking.existing(root, "Run the command again") as client:
                other = versions.find(client, *versions.of(options.other, None, settings.registry.model))
                evidence.model(client, other, folder / "other")
            theirs = Bundle.open(folder / "other/artifacts/bundle")
            added = theirs.items[theirs.trained :].select(lines.SCHEMA.names())
            added = added.filter(~pl.col("parent_asin").is_in(bundle.items["parent_asin"].implode()))
            if added.is_empty():
                raise RequestError(f"{name} has all items that were added to {other.name}/{other.version}.")
        print(f"{name} has {len(bundle.items):,} items: {len(added):,} are added by their titles", flush=True)
        extended.write(folder / "bundle", bundle, added, name)
        longer = Bundle.open(folder / "bundle")
        print("what they cost the items of the training is measured on test users of the version", flush=True)
        about = cost.measure(longer, evaluated)
        write_json(folder / "reports" / ADDED, about)
        shutil.copy(longer.folder / "parity.json", folder / "reports")
        (folder / "registered").mkdir()
        made = extension.register(root, version, longer.folder, folder / "reports", added, folder / "registered")
    for tower, estimate in about["towers"].items():
        print(
            f"{tower}: NDCG@10 of {about['users']:,} test users among all {len(longer.items):,} items "
            f"{estimate['difference']:+.4f} [{estimate['low']:+.4f}, {estimate['high']:+.4f}]"
        )
    print(f"{version.name} version {made.version} has them; run {made.run_id}, which extends {name}")
    print(f"  llmsrec promote {version.name}/{made.version} --to staging\n      what the gate says of it")
