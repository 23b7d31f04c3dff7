"""Aliases are moved here, and nowhere else but for `registry.alias`: on the record, all of them or none."""

import getpass
import os
import secrets
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from llmsrec.errors import DataError, RequestError
from llmsrec.registry import history, tracking
from llmsrec.registry.history import Aliases, Decision, Ledger

ABANDONED = timedelta(minutes=2)  # moving aliases takes a second; who has not ended by then was killed
REMEDY = "The aliases are as they were; run the command again"


def read(client: MlflowClient, model: str) -> dict[str, int]:
    """alias -> version, all of them."""
    return {alias: int(version) for alias, version in client.get_registered_model(model).aliases.items()}


def shown(client: MlflowClient, model: str) -> str:
    """All of them with their versions, for a message."""
    return ", ".join(f"{alias} ({version})" for alias, version in sorted(read(client, model).items())) or "none"


def carry_out(
    root: Path,
    model: str,
    aliases: dict[str, int],
    wanted: Decision,
    tags: dict[str, str],
    about: dict[str, Any],
    text: str,
) -> Decision:
    """Claim the decision's number, record it, tag the version, move the aliases; undo all of it if one step fails.

    `previous` moves before `staging`, and each in one write: whoever reads `staging` meanwhile finds the version before
    or the version after, tagged and on record.
    """
    record = {"model": model, **asdict(wanted), "aliases_before": aliases, **about}
    with tracking.session(root, REMEDY) as client:
        ledger = history.open_ledger(client, model, root)
        ledger.claim(wanted)
        tagged = client.get_model_version(model, str(wanted.version)).tags
        try:
            _unchanged(client, model, root, ledger, aliases)
            ledger.keep(wanted.number, record, text)
            _tag(client, model, wanted.version, dict(tags))
            _move(client, model, wanted.after)
            ledger.close(wanted.number, "done")
        except BaseException as error:
            _undo(client, model, ledger, wanted, {key: tagged.get(key) for key in tags}, error)
            raise
    return replace(wanted, outcome="done")


def _move(client: MlflowClient, model: str, to: Aliases) -> None:
    """Set or delete aliases, `previous` first; those that are right are left alone."""
    there = read(client, model)
    for alias in sorted(to, key=lambda alias: alias != "previous"):
        version = to[alias]
        if version is None and alias in there:
            client.delete_registered_model_alias(model, alias)
        elif version is not None and there.get(alias) != version:
            client.set_registered_model_alias(model, alias, str(version))


def _tag(client: MlflowClient, model: str, version: int, tags: dict[str, str | None]) -> None:
    there = client.get_model_version(model, str(version)).tags
    for key, value in tags.items():
        if value is not None:
            client.set_model_version_tag(model, str(version), key, value)
        elif key in there:
            client.delete_model_version_tag(model, str(version), key)


def _undo(
    client: MlflowClient, model: str, ledger: Ledger, made: Decision, tags: dict[str, str | None], error: BaseException
) -> None:
    """Put everything back; where even that fails, say what the next command will do."""
    aliases = "may not be as they were"
    try:
        _move(client, model, made.before)
        aliases = "are as they were"
        _tag(client, model, made.version, tags)
        ledger.close(made.number, "undone")
    except Exception as second:
        raise DataError(
            f"MLflow failed in the middle ({_first_line(error)}), and then again ({_first_line(second)}). The aliases "
            f"{aliases}; decision {made.number} is unfinished: the next `llmsrec promote --yes` or `llmsrec rollback`, "
            f"from {ABANDONED.seconds // 60} minutes on, settles it before anything else."
        ) from error


def _unchanged(client: MlflowClient, model: str, root: Path, ledger: Ledger, aliases: dict[str, int]) -> None:
    """Raise RequestError if the aliases were moved by other hands, since they were read."""
    now = read(client, model)
    if now != aliases or history.open_ledger(client, model, root).run_id != ledger.run_id:
        raise RequestError(
            f"aliases of {model} were {aliases} and are {now}: somebody moved them meanwhile; nothing of yours was "
            "done. Run the command again."
        )


def last(client: MlflowClient, model: str, root: Path, settle: bool) -> int:
    """The number of the last decision, 0 if there is none.

    Raises:
        RequestError: it is being made just now.
    """
    ledger = history.ledger(client, model)
    decisions = ledger.decisions() if ledger else []
    if not ledger or not decisions:
        return 0
    last = decisions[-1]
    if last.outcome is None:
        if datetime.now(UTC) - datetime.fromisoformat(last.at) < ABANDONED:
            raise RequestError(
                f"{last.by} has been making decision {last.number} since {last.at} ({last.action} of version "
                f"{last.version} to {last.alias}); run the command again when it is done."
            )
        if settle:
            there = read(client, model)
            if all(there.get(alias) == version for alias, version in last.after.items()):
                ledger.close(last.number, "done")
            else:
                _move(client, model, last.before)
                ledger.close(last.number, "undone")
    return last.number


def decide(action: str, version: int, alias: str, before: Aliases, after: Aliases, number: int) -> Decision:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return Decision(number, action, version, alias, before, after, _who(), at, "", [], secrets.token_hex(8))


def _who() -> str:
    """MLflow's user where one is set, else the system's."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
