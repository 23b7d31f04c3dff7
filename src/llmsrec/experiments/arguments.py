"""The command line of `llmsrec paper`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add(commands: Any, command_of: Callable[..., argparse.ArgumentParser], root: Callable[[], Path]) -> None:
    """Add `paper`, `paper run` and `paper page`.

    Args:
        command_of: makes a command of (commands, name, function, text, example).
        root: finds the repository.
    """

    def show(options: argparse.Namespace) -> None:
        from llmsrec.experiments import command

        print(command.show(root(), options.seeds))

    def run(options: argparse.Namespace) -> None:
        from llmsrec.experiments import command, page

        print(page.text(command.run(root(), options.names, options.seeds, options.jobs)))

    def write(options: argparse.Namespace) -> None:
        from llmsrec.experiments import command

        print(command.write(root(), options.seeds))

    paper = command_of(
        commands, "paper", show, "list the paper's tables and figures, and how many of their runs are there",
        "llmsrec paper run table7 table13 && llmsrec paper page",
    )  # fmt: skip
    parts = paper.add_subparsers(metavar="run | page", help="without one of them, they are listed")
    running = command_of(
        parts, "run", run, "run what a table needs and is not there, through DVC's queue, and print the table",
        "llmsrec paper run table7 --seeds 0 1 2",
    )  # fmt: skip
    running.add_argument(
        "names", nargs="+", metavar="NAME", help="such as table6 or figure1; `llmsrec paper` lists them"
    )
    running.add_argument("--jobs", type=int, default=1, help="runs at a time (default: %(default)s)")
    page = command_of(
        parts, "page", write, "write the page of all tables whose runs are there, and attach it in MLflow",
        "llmsrec paper page && open reports/paper/page.html",
    )  # fmt: skip
    for command in (paper, running, page):
        command.add_argument(
            "--seeds", type=int, nargs="+", default=[0], help="of the runs; values of several are averaged user by user"
        )
