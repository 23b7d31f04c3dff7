"""The console script `llmsrec`: what neither dvc nor mlflow does by itself."""

import argparse
import os
import select
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmsrec import presets
from llmsrec.data.imports import command as importing
from llmsrec.drift import command as drifting
from llmsrec.errors import RequestError, explained
from llmsrec.experiments import arguments as experimenting
from llmsrec.files import atomic
from llmsrec.items import command as adding
from llmsrec.promotion import command as promoting
from llmsrec.registry.arguments import add_version
from llmsrec.scoring import command as scoring
from llmsrec.service import arguments as serving
from llmsrec.serving import command as recommending
from llmsrec.serving.command import event as _event

Answered = Callable[[argparse.Namespace], int | None]  # the exit status, if it is not 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; an error that a user can meet is one line on stderr and status 1."""
    options = parser().parse_args(arguments)
    try:
        status = options.run(options) or 0
        sys.stdout.flush()
        return status
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 1
        text = explained(error)
        if text is None:
            raise
        print(f"llmsrec {options.command}: {' '.join(text.split())}", file=sys.stderr)
        return 1


def _nobody_reads() -> bool:
    """Whether who read the output has ended, as `| head` does; what is left to be written is then dropped."""
    output = select.poll()
    output.register(sys.stdout.fileno(), select.POLLOUT)
    if not any(event & select.POLLERR for _, event in output.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def parser() -> argparse.ArgumentParser:
    """All commands, each with an example in its --help."""
    root = argparse.ArgumentParser(prog="llmsrec", description="LLM-SRec beside dvc and mlflow.")
    commands = root.add_subparsers(dest="command", required=True, metavar="command")

    command = _add(
        commands, "recommend", recommend, "recommend items for a history, from a registered version or a bundle",
        "llmsrec recommend --history B00A@1391040000000 B00B@1392000000000 --k 5",
    )  # fmt: skip
    recommending.add_arguments(command)

    command = _add(
        commands, "score", score, "recommend items to all users of the data, or of a file, into one parquet file",
        "llmsrec score --model models:/llm-srec@staging --out recommendations.parquet",
    )  # fmt: skip
    scoring.add_arguments(command)

    command = _add(
        commands, "serve", serve, "answer requests over HTTP from a registered version, and follow its alias",
        "llmsrec serve models:/llm-srec@staging --port 8080",
    )  # fmt: skip
    serving.add(command)

    command = _add(
        commands, "items", items_add, "make a registered version's catalogue longer, without training",
        "llmsrec items add new.jsonl --model models:/llm-srec@staging",
    )  # fmt: skip
    parts = command.add_subparsers(dest="part", required=True, metavar="add")
    part = _add(
        parts, "add", items_add,
        "register a version with new items beside its own: their vectors come from their titles, and no alias is moved",
        "llmsrec items add new.jsonl --model models:/llm-srec@staging",
    )  # fmt: skip
    adding.add_arguments(part)

    command = _add(
        commands, "drift", drift, "compare requests, or data, with the training data of a version; status 3 is drift",
        "llmsrec drift --requests requests.jsonl.gz --model models:/llm-srec@staging --out reports/drift",
    )  # fmt: skip
    drifting.add_arguments(command)

    command = _add(
        commands, "import", importing.run, "turn a shop's export (CSV, TSV, JSON lines, parquet) into the raw layout",
        'llmsrec import orders.csv --user Kunde --item Artikel --time "Bestellt am" --title Bezeichnung '
        "--to data/incoming --category Shop",
    )  # fmt: skip
    importing.add_arguments(command)

    command = _add(
        commands, "preset", preset, "print a preset as overrides for dvc, or list the presets",
        "dvc exp run $(llmsrec preset paper/Scientific)",
    )  # fmt: skip
    command.add_argument("name", nargs="?", help="a preset; without one, their names are listed")

    command = _add(
        commands, "compare", compare, "compare two runs: parameters, metrics in pairs, slices, sizes, latency",
        "llmsrec compare staging candidate --markdown comparison.md --png comparison.png",
    )  # fmt: skip
    for side in ("a", "b"):
        command.add_argument(
            side, metavar=side.upper(),
            help="a version (5, staging, shop/5), a run's id or name, a DVC experiment, a git revision, or `workspace`",
        )  # fmt: skip
    command.add_argument("--markdown", type=Path, metavar="FILE", help="write it as Markdown, too")
    command.add_argument("--png", type=Path, metavar="FILE", help="write a picture of it, too")
    command.add_argument("--no-latency", action="store_true", help="do not start and time the two bundles")

    command = _add(
        commands, "evaluate", evaluate, "ask all towers of a version about the test users of data, and log the figures",
        "llmsrec evaluate shop@staging --on data",
    )  # fmt: skip
    add_version(command)
    command.add_argument(
        "--on", default="workspace", metavar="FOLDER",
        help="a folder like data or data/filtered, or `workspace`, the data of this repository (default: %(default)s)",
    )  # fmt: skip

    promoting.add(commands, _add, _root)

    command = _add(
        commands, "tune", tune, "search for better parameters: a worker of the study that params.yaml describes",
        "llmsrec tune && llmsrec tune apply",
    )  # fmt: skip
    parts = command.add_subparsers(metavar="show | apply", help="without one of them, trials are run")
    _add(parts, "show", tune_show, "show the study's trials, best first", "llmsrec tune show")
    part = _add(
        parts, "apply", tune_apply, "write the best trial's values into params.yaml, after showing what changes",
        "llmsrec tune apply --yes && dvc repro",
    )  # fmt: skip
    part.add_argument("--yes", action="store_true", help="do not ask")

    _add(
        commands, "registered", registered, "check that the registry has what metrics/registered.json names",
        "dvc pull && llmsrec registered || dvc repro -f -s register",
    )  # fmt: skip

    experimenting.add(commands, _add, _root)

    command = _add(
        commands, "summary", summary, "show the metrics and the registered version of this repository's last run",
        "dvc repro && llmsrec summary",
    )  # fmt: skip
    command.add_argument("--all", action="store_true", help="the compared systems, too (dvc repro baselines/dvc.yaml)")
    return root


def recommend(options: argparse.Namespace) -> None:
    """Answer one request."""
    history = [_event(text) for text in options.history]
    recommending.run(history, options, lambda: options.bundle or _registered(options.model))


def score(options: argparse.Namespace) -> None:
    """Recommend to many."""
    scoring.run(_root(), options)


def serve(options: argparse.Namespace) -> None:
    """Serve until told to end."""
    from llmsrec.registry import address
    from llmsrec.registry.follow import Registry
    from llmsrec.service import command

    root = _root()
    address.require(root)
    address.reachable(root)
    command.run(Registry(address.tracking_uri(root), options.model), options)


def items_add(options: argparse.Namespace) -> None:
    """Make a catalogue longer."""
    adding.run(_root(), options)


def drift(options: argparse.Namespace) -> int:
    """Look for drift; 3 if there is some."""
    return drifting.run(_root(), options)


def preset(options: argparse.Namespace) -> None:
    """Print overrides on one line, so that the shell can hand them on."""
    print("\n".join(presets.PRESETS) if options.name is None else presets.overrides(options.name))


def compare(options: argparse.Namespace) -> None:
    """Print how B differs from A."""
    from llmsrec.evaluation import pair_plot
    from llmsrec.experiments import compare as comparing

    comparison = comparing.compare(_root(), options.a, options.b, not options.no_latency)
    print(comparison.text())
    if options.markdown:
        with atomic(options.markdown) as temporary:
            temporary.write_text(comparison.markdown(), encoding="utf-8")
    if options.png:
        pair_plot.plot(options.png, comparison.rows, (options.a, options.b))


def evaluate(options: argparse.Namespace) -> None:
    """Measure a version anew."""
    from llmsrec.registry import evaluate as evaluating

    evaluating.evaluate(_root(), options.version, options.on, options.model)


def tune(options: argparse.Namespace) -> None:
    """Run trials until the study has all of them."""
    from llmsrec.tuning import command

    command.run(_root())
    print(command.show(_root()))


def tune_show(options: argparse.Namespace) -> None:
    """Print the study that params.yaml names."""
    from llmsrec.tuning import command

    print(command.show(_root()))


def tune_apply(options: argparse.Namespace) -> None:
    """Show what the winner changes in params.yaml, and write it once that is agreed to."""
    from llmsrec.tuning import command

    difference, text = command.winner(_root())
    print(difference or "params.yaml has the best trial's values already")
    if not difference:
        return
    if not options.yes and not sys.stdin.isatty():
        raise RequestError("nobody is there to agree and nothing was written; `--yes` writes it without asking.")
    if options.yes or input("Write this to params.yaml? [y/N] ").strip().lower() in ("y", "yes"):
        command.apply(text)
        print("written; `dvc repro` trains with it")


def registered(options: argparse.Namespace) -> None:
    """Succeed if nothing is missing."""
    from llmsrec.registry import tracking

    registered = tracking.require_registered(_root(), Path("metrics/registered.json"))
    print(f"{registered['name']} version {registered['version']} is registered; run {registered['run_id']}")


def summary(options: argparse.Namespace) -> None:
    """Print what the last `dvc repro` or `dvc exp run` left."""
    if options.all:
        from llmsrec.experiments import overview

        print(overview.show(Path()))
        return
    from llmsrec.experiments import summary

    summary.show()


def _add(commands: Any, name: str, run: Answered, text: str, example: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _registered(uri: str) -> Path:
    from llmsrec.registry import tracking

    return tracking.bundle_of(uri, _root())


def _root() -> Path:
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()
