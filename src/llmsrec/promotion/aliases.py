"""Aliases are moved here, and nowhere else but for `registry.alias`: on the record, all of them or none."""

import getpass
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from mlflow import MlflowClient

from llmsrec.errors import DataError, RequestError
from llmsrec.promotion.ledger import Aliases, Decision, Ledger, existing_ledger, open_ledger
from llmsrec.registry import tracking

LOCK = "mlruns/.decisions.lock"
PATIENCE = 15  # s that one process waits for another's decision; making it takes a second
REMEDY = "The aliases are as they were; run the command again"


def read(client: MlflowClient, model: str) -> dict[str, int]:
    """alias -> version, all of them."""
    return {alias: int(version) for alias, version in client.get_registered_model(model).aliases.items()}


def carry_out(
    root: Path,
    model: str,
    aliases: dict[str, int],
    wanted: Decision,
    about: dict[str, Any],
    text: str,
) -> Decision:
    """Claim the decision's number, record it, tag the version, move the aliases; undo all of it if one step fails.

    `previous` moves before `staging`, and each in one write: whoever reads `staging` meanwhile finds the version before
    or the version after, tagged and on record.

    Raises:
        RequestError: somebody else decides at the same time, or moved aliases since they were read.
        DataError: the registry failed.
    """
    with tracking.session(root, REMEDY) as client, _alone(root):
        ledger = open_ledger(client, model, root)
        tagged = client.get_model_version(model, str(wanted.version)).tags
        wanted = replace(wanted, tags_before={key: tagged.get(key) for key in wanted.tags_after})
        record = {"model": model, **asdict(wanted), "aliases_before": aliases, **about}
        ledger.claim(wanted)
        try:
            _unchanged(client, model, root, ledger, aliases)
            ledger.keep(wanted.number, record, text)
            _tag(client, model, wanted.version, wanted.tags_after)
            _still_open(ledger, wanted)
            _move(client, model, wanted.after)
            outcome = ledger.close(wanted.number, "done")
        except BaseException as error:
            _undo(client, model, ledger, wanted, error)
            raise
        if outcome != "done":
            _put_back(client, model, ledger, wanted)
            raise _overtaken(wanted)
    return replace(wanted, outcome="done")


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Of the processes that decide from this repository, be the only one; the lock goes with its process.

    From elsewhere others may decide meanwhile: of them all the ledger takes one outcome for a decision, and who is
    late follows it (`_put_back`).
    """
    path = root / LOCK
    try:
        with FileLock(path, timeout=PATIENCE):
            yield
    except Timeout as error:
        raise RequestError(
            f"another process decides from {root} and has not ended for {PATIENCE} s; nothing of yours was done. Wait "
            f"for it or end it (`fuser {path}` names it), then run the command again."
        ) from error


def _move(client: MlflowClient, model: str, to: Aliases) -> None:
    """Set or delete aliases, `previous` first; those that are right are left alone."""
    held = read(client, model)
    for alias in sorted(to, key=lambda alias: alias != "previous"):
        version = to[alias]
        if version is None and alias in held:
            client.delete_registered_model_alias(model, alias)
        elif version is not None and held.get(alias) != version:
            client.set_registered_model_alias(model, alias, str(version))


def _tag(client: MlflowClient, model: str, version: int, tags: dict[str, str | None]) -> None:
    present = client.get_model_version(model, str(version)).tags
    for key, value in tags.items():
        if value is not None:
            client.set_model_version_tag(model, str(version), key, value)
        elif key in present:
            client.delete_model_version_tag(model, str(version), key)


def _undo(client: MlflowClient, model: str, ledger: Ledger, made: Decision, error: BaseException) -> None:
    """Put everything back; where even that fails, say what the next command will do."""
    try:
        _put_back(client, model, ledger, made)
        ledger.close(made.number, "undone")
    except Exception as second:
        raise DataError(
            f"MLflow failed in the middle ({_first_line(error)}), and then again ({_first_line(second)}). The aliases "
            f"may not be as they were; decision {made.number} is unfinished: the next `llmsrec promote --yes` or "
            "`llmsrec rollback` settles it before anything else."
        ) from error


def _put_back(client: MlflowClient, model: str, ledger: Ledger, made: Decision) -> None:
    """What `made` moved goes to where it was, or to where a later decision wants it; what others moved stays."""
    later = [other for other in ledger.decisions() if other.number > made.number and other.outcome != "undone"]
    target = dict(made.before)
    for other in later:
        target |= {alias: version for alias, version in other.after.items() if alias in target}
    now = read(client, model)
    _move(client, model, {alias: target[alias] for alias in target if now.get(alias) == made.after[alias]})
    if all(other.version != made.version for other in later):
        _tag(client, model, made.version, made.tags_before)


def _still_open(ledger: Ledger, made: Decision) -> None:
    """Raise RequestError if somebody elsewhere took the decision for one that was cut short, and settled it."""
    newest = ledger.decisions()[-1]
    if newest.number != made.number or newest.outcome is not None:
        raise _overtaken(made)


def _overtaken(made: Decision) -> RequestError:
    return RequestError(
        f"somebody else decided at the same time and undid decision {made.number}; nothing of yours was done. Look at "
        "`llmsrec history` and run the command again."
    )


def _unchanged(client: MlflowClient, model: str, root: Path, ledger: Ledger, aliases: dict[str, int]) -> None:
    """Raise RequestError if the aliases were moved by other hands, since they were read."""
    now = read(client, model)
    if now != aliases or open_ledger(client, model, root).run_id != ledger.run_id:
        raise RequestError(
            f"aliases of {model} were {aliases} and are {now}: somebody moved them meanwhile; nothing of yours was "
            "done. Run the command again."
        )


def last(client: MlflowClient, model: str, root: Path, settle: bool) -> int:
    """The number of the last decision, 0 if there is none.

    Args:
        settle: end it first if it was cut short.

    Raises:
        RequestError: a process of this repository is making it and does not end.
    """
    if not settle:
        ledger = existing_ledger(client, model)
        return max((decision.number for decision in ledger.decisions()), default=0) if ledger else 0
    with _alone(root):  # who is still at it has ended then, and whoever was killed has let go
        ledger = existing_ledger(client, model)
        decisions = ledger.decisions() if ledger else []
        if not ledger or not decisions:
            return 0
        if decisions[-1].outcome is None:
            _settle(client, model, ledger, decisions[-1])
        return decisions[-1].number


def _settle(client: MlflowClient, model: str, ledger: Ledger, cut: Decision) -> None:
    """End a decision that was cut short: done if all its aliases have moved, else undone. No clock is asked.

    Tags are written before aliases move, so a version whose aliases have moved is tagged.
    """
    now = read(client, model)
    done = all(now.get(alias) == version for alias, version in cut.after.items())
    if not done:
        _put_back(client, model, ledger, cut)
    outcome = ledger.close(cut.number, "done" if done else "undone")
    if outcome == "undone":
        _put_back(client, model, ledger, cut)  # again, for what its maker, alive elsewhere, wrote meanwhile
    elif not done:
        _tag(client, model, cut.version, cut.tags_after)
        _move(client, model, cut.after)


def already(client: MlflowClient, model: str, alias: str, version: int) -> Decision | None:
    """The decision by which `alias` is `version`; None where it was moved by other hands."""
    ledger = existing_ledger(client, model)
    decisions = ledger.decisions() if ledger else []
    done = [decision for decision in decisions if decision.outcome == "done" and decision.alias == alias]
    return done[-1] if done and done[-1].version == version else None


def decide(action: str, version: int, alias: str, before: Aliases, after: Aliases, number: int) -> Decision:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return Decision(number, action, version, alias, before, after, _user(), at, "", [], secrets.token_hex(8))


def _user() -> str:
    """MLflow's user where one is set, else the system's."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
