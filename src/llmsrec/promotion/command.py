"""The commands `llmsrec promote`, `rollback`, `history` and `nominate`: their arguments, and what they print."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsrec.errors import RequestError
from llmsrec.registry.arguments import add_model, add_version

if TYPE_CHECKING:
    from llmsrec.params import Registry
    from llmsrec.promotion.ledger import Decision


def add(commands: Any, command_of: Callable[..., argparse.ArgumentParser], root: Callable[[], Path]) -> None:
    """Add the four commands.

    Args:
        command_of: makes a command of (commands, name, function, text, example).
        root: finds the repository.
    """
    command = command_of(
        commands, "promote", lambda options: promote(root(), options),
        "judge a version by the rules in params.yaml; with --yes move the alias to it",
        "llmsrec promote candidate --to staging --yes",
    )  # fmt: skip
    add_version(command)
    command.add_argument("--to", required=True, metavar="ALIAS", help="staging, or champion for what is in staging")
    command.add_argument("--yes", action="store_true", help="move the aliases; without it nothing is changed")
    command.add_argument("--force", action="store_true", help="promote against the rules; needs --reason")
    command.add_argument("--reason", metavar="TEXT", help="why, for the record")

    command = command_of(
        commands, "rollback", lambda options: rollback(root(), options),
        "return an alias to the version before",
        "llmsrec rollback staging --reason 'clicks fell by a tenth'",
    )  # fmt: skip
    command.add_argument("alias", help="staging, or shop@staging")
    add_model(command)
    command.add_argument("--reason", metavar="TEXT", default="", help="why, for the record")

    command = command_of(
        commands, "history", lambda options: decisions(root(), options),
        "list the decisions on the model, or show the record of one",
        "llmsrec history 2",
    )  # fmt: skip
    command.add_argument(
        "what", nargs="?", help="a decision's number, or a version for the decisions on it, such as shop/5"
    )
    add_model(command)
    command.add_argument("--json", action="store_true", help="print the list as JSON")

    command = command_of(
        commands, "nominate", lambda options: nominate(root(), options),
        "give a version the alias candidate, which experiments leave alone",
        "llmsrec nominate 5",
    )  # fmt: skip
    add_version(command)


def promote(root: Path, options: argparse.Namespace) -> None:
    """Show the rules; with --yes, act."""
    from llmsrec.promotion import actions, decision

    if options.force and not options.reason:
        raise RequestError("--force is given without --reason; say why, it is kept for good: --reason TEXT.")
    verdict = actions.review(root, options.version, options.to, options.yes, options.model)
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
    made = actions.promote(root, verdict, options.reason or "", options.force)
    record = str(made.number) + ("" if verdict.model == verdict.settings.model else f" --model {verdict.model}")
    print(f"\n{options.to} is version {made.version}; decision {made.number}, see `llmsrec history {record}`")
    _tell(verdict.settings, verdict.model, made)


def rollback(root: Path, options: argparse.Namespace) -> None:
    """Go back, and say what is where now."""
    from llmsrec import params as parameters
    from llmsrec.promotion import actions

    settings = parameters.load(root / "params.yaml").registry
    model, made, now = actions.rollback(root, options.alias, options.reason, options.model)
    if not now:
        print(
            f"already so: decision {made.number} rolled {made.alias} back to version {made.version}, and there is no "
            "version before it on record; promote one by its number instead"
        )
        return
    print(f"{made.alias} is version {made.version} again (it was {made.before[made.alias]}); decision {made.number}")
    _tell(settings, model, made)


def decisions(root: Path, options: argparse.Namespace) -> None:
    """Print the decisions."""
    from llmsrec.promotion import ledger

    print(ledger.show(root, options.what, options.json, options.model))


def nominate(root: Path, options: argparse.Namespace) -> None:
    """Move the alias, and say where it was."""
    from llmsrec.promotion import actions

    print(actions.nominate(root, options.version, options.model))


def _tell(settings: "Registry", model: str, made: "Decision") -> None:
    """Tell of a decision that is done whom params.yaml names, and print what came of it."""
    from llmsrec.promotion import after

    sys.stdout.flush()  # who waits for the promotion need not wait for this
    for line in after.tell(settings.after_promotion, model, made):
        print(line)
