"""The command lines of `llmsrec paper` and `llmsrec claims`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmsrec.experiments.claims import CLAIMS
from llmsrec.experiments.collection import Collection
from llmsrec.experiments.paper import TABLES

TEXTS = {
    "paper": "list the paper's tables and figures, and how many of their runs are there",
    "claims": "is the language model worth it? list the paper's claims, and how many of their runs are there",
}
EXAMPLES = {
    "paper": ("table7 table13", "table7 --seeds 0 1 2"),
    "claims": ("teacher losses", "pretraining --seeds 0 1"),
}


def add(commands: Any, command_of: Callable[..., argparse.ArgumentParser], root: Callable[[], Path]) -> None:
    """Add `paper` and `claims`, each with `run` and `page`.

    Args:
        command_of: makes a command of (commands, name, function, text, example).
        root: finds the repository.
    """
    for collection in (TABLES, CLAIMS):
        _add(commands, command_of, root, collection)


def _add(
    commands: Any, command_of: Callable[..., argparse.ArgumentParser], root: Callable[[], Path], collection: Collection
) -> None:
    def show(options: argparse.Namespace) -> None:
        from llmsrec.experiments import command

        print(command.show(collection, root(), options.seeds))

    def run(options: argparse.Namespace) -> None:
        from llmsrec.experiments import command, page

        print(page.text(command.run(collection, root(), options.names, options.seeds, options.jobs)))

    def write(options: argparse.Namespace) -> None:
        from llmsrec.experiments import command

        print(command.write(collection, root(), options.seeds, options.markdown))

    word, kind = collection.command, collection.kind
    several, seeded = EXAMPLES[word]
    listing = command_of(
        commands, word, show, TEXTS[word], f"llmsrec {word} run {several} && llmsrec {word} page",
    )  # fmt: skip
    parts = listing.add_subparsers(metavar="run | page", help="without one of them, they are listed")
    running = command_of(
        parts, "run", run, f"run what a {kind} needs and is not there, through DVC's queue, and print it",
        f"llmsrec {word} run {seeded}",
    )  # fmt: skip
    running.add_argument(
        "names", nargs="+", metavar="NAME", help=f"such as {several.split()[0]}; `llmsrec {word}` lists them"
    )
    running.add_argument("--jobs", type=int, default=1, help="runs at a time (default: %(default)s)")
    page = command_of(
        parts, "page", write, "write the page of all whose runs are there, and attach it in MLflow",
        f"llmsrec {word} page && open {collection.folder}/page.html",
    )  # fmt: skip
    page.add_argument("--markdown", type=Path, metavar="FILE", help="a Markdown file that it is written to, too")
    for command in (listing, running, page):
        command.add_argument(
            "--seeds", type=int, nargs="+", default=[0], help="of the runs; values of several are averaged user by user"
        )
