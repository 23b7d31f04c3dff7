"""The console script `llmsrec`: what neither dvc nor mlflow does by itself."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsrec import presets
from llmsrec.data.imports import command as importing
from llmsrec.drift import command as drifting
from llmsrec.errors import RequestError, explained
from llmsrec.experiments import arguments as experimenting
from llmsrec.files import atomic, read_json
from llmsrec.items import command as adding
from llmsrec.scoring import command as scoring
from llmsrec.service import arguments as serving
from llmsrec.serving import command as recommending
from llmsrec.serving.command import event as _event

if TYPE_CHECKING:
    from llmsrec.params import Registry
    from llmsrec.promotion.ledger import Decision

# Of `dvc exp show`: all of metrics/evaluation.json, files and times, so that metrics/summary.json's figures are left.
UNCHANGING = r".*(Created|/|\.(test|valid|user)\w*\.|teacher|hr_)"
Answered = Callable[[argparse.Namespace], int | None]  # the exit status, if it is not 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; an error that a user can meet is one line on stderr and status 1."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except Exception as error:
        text = explained(error)
        if text is None:
            raise
        print(f"llmsrec {options.command}: {' '.join(text.split())}", file=sys.stderr)
        return 1


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

    command = commands.add_parser("items", help="make a registered version's catalogue longer, without training")
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
    _add_version(command)
    command.add_argument(
        "--on", default="workspace", metavar="FOLDER",
        help="a folder like data or data/filtered, or `workspace`, the data of this repository (default: %(default)s)",
    )  # fmt: skip

    command = _add(
        commands, "promote", promote, "judge a version by the rules in params.yaml; with --yes move the alias to it",
        "llmsrec promote candidate --to staging --yes",
    )  # fmt: skip
    _add_version(command)
    command.add_argument("--to", required=True, metavar="ALIAS", help="staging, or champion for what is in staging")
    command.add_argument("--yes", action="store_true", help="move the aliases; without it nothing is changed")
    command.add_argument("--force", action="store_true", help="promote against the rules; needs --reason")
    command.add_argument("--reason", metavar="TEXT", help="why, for the record")

    command = _add(
        commands, "rollback", rollback, "return an alias to the version before",
        "llmsrec rollback staging --reason 'clicks fell by a tenth'",
    )  # fmt: skip
    command.add_argument("alias", help="staging, or shop@staging")
    _add_model(command)
    command.add_argument("--reason", metavar="TEXT", default="", help="why, for the record")

    command = _add(
        commands, "history", decisions, "list the decisions on the model, or show the record of one",
        "llmsrec history 2",
    )  # fmt: skip
    command.add_argument(
        "what", nargs="?", help="a decision's number, or a version for the decisions on it, such as shop/5"
    )
    _add_model(command)
    command.add_argument("--json", action="store_true", help="print the list as JSON")

    command = _add(
        commands, "nominate", nominate, "give a version the alias candidate, which experiments leave alone",
        "llmsrec nominate 5",
    )  # fmt: skip
    _add_version(command)

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


def promote(options: argparse.Namespace) -> None:
    """Show the rules; with --yes, act."""
    from llmsrec.promotion import actions, decision

    if options.force and not options.reason:
        raise RequestError("--force is given without --reason; say why, it is kept for good: --reason TEXT.")
    verdict = actions.review(_root(), options.version, options.to, options.yes, options.model)
    if not isinstance(verdict, actions.Verdict):
        print(
            f"already so: {options.to} is version {verdict.version} by decision {verdict.number}; nothing was changed"
        )
        return
    now = verdict.aliases.get(options.to)
    print(f"{verdict.model} version {verdict.version} -> {options.to} (now: {f'version {now}' if now else 'none'})\n")
    print(decision.table(verdict.rules))
    if verdict.changed:
        print(f"\nparams.yaml has changed since it was trained: {', '.join(verdict.changed)}")
    if not options.yes:
        actions.refuse(verdict, options.force)
        print(f"\nnothing was changed; --yes moves {options.to} to version {verdict.version}")
        return
    made = actions.promote(_root(), verdict, options.reason or "", options.force)
    record = str(made.number) + ("" if verdict.model == verdict.settings.model else f" --model {verdict.model}")
    print(f"\n{options.to} is version {made.version}; decision {made.number}, see `llmsrec history {record}`")
    _tell(verdict.settings, verdict.model, made)


def rollback(options: argparse.Namespace) -> None:
    """Go back, and say what is where now."""
    from llmsrec import params as parameters
    from llmsrec.promotion import actions

    settings = parameters.load(_root() / "params.yaml").registry
    model, made, now = actions.rollback(_root(), options.alias, options.reason, options.model)
    if not now:
        print(
            f"already so: decision {made.number} rolled {made.alias} back to version {made.version}, and there is no "
            "version before it on record; promote one by its number instead"
        )
        return
    print(f"{made.alias} is version {made.version} again (it was {made.before[made.alias]}); decision {made.number}")
    _tell(settings, model, made)


def decisions(options: argparse.Namespace) -> None:
    """Print the decisions."""
    from llmsrec.promotion import ledger

    print(ledger.show(_root(), options.what, options.json, options.model))


def nominate(options: argparse.Namespace) -> None:
    """Move the alias, and say where it was."""
    from llmsrec.promotion import actions

    print(actions.nominate(_root(), options.version, options.model))


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
    from llmsrec import params as parameters
    from llmsrec.evaluation import towers
    from llmsrec.evaluation.report import table

    if options.all:
        from llmsrec.experiments import overview

        print(overview.show(Path()))
        return
    evaluation, registered = read_json(Path("metrics/evaluation.json")), read_json(Path("metrics/registered.json"))
    comparison, gate = read_json(Path("reports/comparison.json")), parameters.load(Path("params.yaml")).registry.gate
    name, version = registered["name"], registered["version"]
    print(table(evaluation, comparison["negatives"]))
    if "minus_teacher" in comparison["towers"]:  # else of before towers were compared
        print("\n" + towers.text(comparison["towers"]))
    warnings = towers.warnings(comparison["towers"], gate.margin)
    for line in warnings:
        print(f"  warning: {line}")
    if warnings and "teacher" not in gate.towers:
        print("  `tower: teacher` answers instead; `registry.gate.towers` says which towers are judged and served")
    good = " --tower teacher" if any(line.startswith("llm:") for line in warnings) else ""
    print(f"\n{name} version {version}, MLflow run {registered['run_id']}\n\nNext:")
    events, titles = _example()
    for command, purpose in (
        *_commit(),
        ("dvc exp run -S model.uniform=false", "an ablation"),
        (
            f"dvc exp show --only-changed --drop '{UNCHANGING}'",
            "compares it; so do `dvc params diff`, `dvc metrics diff`",
        ),
        (
            "mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db",
            "runs, curves and versions in the browser; the list of runs has its metrics by Views > Quality",
        ),
        (
            f"llmsrec recommend --model models:/{name}/{version}{good} --k 5 --history {events}",
            f"an answer here, to {titles}",
        ),
        (f"llmsrec promote {name}/{version} --to staging", "what the gate says of it; --yes moves the alias"),
        (f"llmsrec serve models:/{name}/{version}", "a service: http://127.0.0.1:8080/invocations, /readyz, /metrics"),
    ):
        print(f"  {command}\n      {purpose}")


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


def _add_version(command: argparse.ArgumentParser) -> None:
    command.add_argument("version", help="a version's number or alias, or shop/5, shop@staging, models:/shop/5")
    _add_model(command)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", metavar="NAME", help="the registered model (default: `registry.model`)")


def _tell(settings: "Registry", model: str, made: "Decision") -> None:
    """Tell of a decision that is done whom params.yaml names, and print what came of it."""
    from llmsrec.promotion import after

    sys.stdout.flush()  # who waits for the promotion need not wait for this
    for line in after.tell(settings.after_promotion, model, made):
        print(line)


def _registered(uri: str) -> Path:
    from llmsrec.registry import tracking

    return tracking.bundle_of(uri, _root())


def _root() -> Path:
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def _commit() -> list[tuple[str, str]]:
    """The command that makes a baseline of this run, where the checked-out commit has not got it."""
    from llmsrec.registry import revisions

    lock = Path("dvc.lock")
    if not lock.exists() or revisions.show(Path.cwd(), "HEAD", "dvc.lock") == lock.read_text(encoding="utf-8"):
        return []
    files = Path("stages/sources/dvc.lock")
    own = f"{files} " if files.exists() else ""
    command = f"git add dvc.lock {own}params.yaml metrics reports && git commit -m 'Baseline'"
    return [(command, "what experiments are compared with: `llmsrec compare HEAD <experiment>`")]


def _example() -> tuple[str, str]:
    """A history for the command line, and its titles."""
    import polars as pl

    from llmsrec.data.titles import UNTITLED
    from llmsrec.evaluation import example

    filtered, ranks = Path("data/filtered"), Path("reports/ranks.parquet")
    events = example.history(filtered, ranks) if ranks.exists() and filtered.is_dir() else []
    if events:
        return " ".join(shlex.quote(f"{asin}@{ms}") for asin, ms, _ in events), "; ".join(title for *_, title in events)
    items = pl.read_parquet("models/bundle/items.parquet").sort("count", descending=True, maintain_order=True)
    asin, title = items.filter(pl.col("title") != UNTITLED).vstack(items).select("parent_asin", "title").row(0)
    return shlex.quote(asin), title
