"""A version through the gate to staging or champion, and staging back to the version before."""

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from llmsrec import params as parameters
from llmsrec.errors import DataError, LLMSRecError, ParamsError, RequestError
from llmsrec.export.smoke import smoke
from llmsrec.params import Gate, Params, Registry
from llmsrec.promotion import aliases, decision, evidence, facts, gate, other_data, rivals
from llmsrec.promotion.ledger import Aliases, Decision
from llmsrec.registry import extension, tracking, versions
from llmsrec.registry.record import SEALED, used

TARGETS = ("staging", "champion")


@dataclass(frozen=True)
class Verdict:
    """A version before the gate.

    Attributes:
        settings: params.yaml's `registry`, as the rules were applied.
        model: the registered model.
        version, to: what would be moved where.
        rules: the gate's rules with their figures.
        aliases: all aliases of the model, as they were when this began.
        after: those that would move, and where to.
        last: number of the last decision when this began.
        about: digests and ids for the record.
        changed: parameters that params.yaml now has other values of than the version was trained with.
    """

    settings: Registry
    model: str
    version: int
    to: str
    rules: list[gate.Rule]
    aliases: dict[str, int]
    after: Aliases
    last: int
    about: dict[str, Any]
    changed: list[str]

    @property
    def before(self) -> Aliases:
        return {alias: self.aliases.get(alias) for alias in self.after}

    def failures(self) -> list[str]:
        return [line for rule in self.rules for line in rule.failures()]

    def broken(self) -> list[str]:
        return [rule.name for rule in self.rules if not rule.holds]


def review(root: Path, wanted: str, to: str, settle: bool, model: str | None = None) -> Verdict | Decision:
    """Judge a version by the rules in `root`/params.yaml; nothing is changed.

    Args:
        wanted: a version's number or alias, or with its model: `shop/5`, `shop@candidate` or a models:/ URI.
        to: the alias that it is to have: staging, or champion for what is in staging.
        settle: first end a decision that was cut short (`Ledger`).
        model: the registered model; without it that of `wanted`, or `registry.model`.

    Returns:
        What the rules say; or the decision by which `to` is this version already.

    Raises:
        RequestError: no such version, or an alias that is not promoted to.
        DataError: no registry, or the version's artifacts are missing or altered.
    """
    if to not in TARGETS:
        raise RequestError(f"versions are promoted to {' or '.join(TARGETS)}, not to {to!r}: {_what_sets(to)}.")
    settings = parameters.load(root / "params.yaml")
    with tracking.existing(root, aliases.REMEDY) as client, tempfile.TemporaryDirectory() as folder:
        model, wanted = versions.of(wanted, model, settings.registry.model)
        last = aliases.last(client, model, root, settle)
        version = versions.find(client, model, wanted)
        held, number = aliases.read(client, model), int(version.version)
        if held.get(to) == number:
            if made := aliases.already(client, model, to, number):
                return made
            raise RequestError(
                f"{model} version {number} is in {to} already, but by no decision: the alias was moved by other means. "
                f"Nothing was changed; delete the alias {to} in MLflow to have the version judged."
            )
        if to == "champion" and held.get("staging") != number:
            raise RequestError(
                f"only what is in staging becomes champion, and that is {held.get('staging', 'no version')}, not "
                f"version {number}; promote it to staging first."
            )
        _say(f"bringing {model} version {number} and its reports, and comparing them with what was registered")
        ours = evidence.collect(client, version, Path(folder) / "ours")
        limits = settings.registry.gate
        holder = _holder(client, model, held.get(to), ours, Path(folder) / "there", root, limits)
        tried = _try(Path(folder) / "ours/model", limits.requests)
        run = client.get_run(str(version.run_id))
        rival = rivals.find(client, run.info.run_id, ours, limits.against)
        dropped = _dropped(client, model, held.get(to), number, Path(folder))
        return Verdict(
            settings=settings.registry,
            model=model,
            version=number,
            to=to,
            rules=gate.judge(ours, holder, to, tried, limits, rival, dropped),
            aliases=held,
            after={"previous": held.get("staging"), to: number} if to == "staging" else {to: number},
            last=last,
            about={
                "run_id": version.run_id,
                "bundle_sha256": ours.bundle_sha256,
                SEALED: run.data.tags[SEALED],
                "data": ours.comparison["data"],
                "smoke": asdict(tried),
                "tracking_uri": client.tracking_uri,
            },
            changed=_changed(run.data.params, settings),
        )


def promote(root: Path, verdict: Verdict, reason: str = "", forced: bool = False) -> Decision:
    """Move the aliases as judged, and record it.

    Args:
        reason: why, for the record; may be empty unless `forced`.
        forced: promote a version that the rules refuse all the same.

    Raises:
        RequestError: the rules refuse it, or somebody else moved aliases since it was judged.
        ParamsError: the rules have changed since.
        DataError: the registry failed; the aliases are as they were.
    """
    refuse(verdict, forced)
    if parameters.load(root / "params.yaml").registry != verdict.settings:
        raise ParamsError(
            "`registry` in params.yaml changed while the rules were checked; nothing was promoted. Run the command "
            "again."
        )
    wanted = aliases.decide("promote", verdict.version, verdict.to, verdict.before, verdict.after, verdict.last + 1)
    tags: dict[str, str | None] = {
        "validation": "forced" if verdict.broken() else "passed",
        "validation.by": wanted.by,
        "validation.at": wanted.at,
        "validation.bundle_sha256": verdict.about["bundle_sha256"],
        "validation.decision": str(wanted.number),
    }
    wanted = replace(wanted, reason=reason, broken=verdict.broken(), tags_after=tags)
    about = {
        "installed": decision.installed(),
        "rules": [rule.to_dict() for rule in verdict.rules],
        "thresholds": verdict.settings.gate.model_dump(),
        "version": verdict.about,
        "changed_since_training": verdict.changed,
    }
    text = decision.markdown(verdict.model, wanted, verdict.rules, verdict.about["bundle_sha256"])
    return aliases.carry_out(root, verdict.model, verdict.aliases, wanted, about, text)


def refuse(verdict: Verdict, forced: bool) -> None:
    """Raise RequestError, with each rule that does not hold and by how much; forced, only for a broken bundle."""
    if verdict.broken() and not (forced and gate.INTEGRITY not in verdict.broken()):
        raise RequestError(decision.refusal(verdict.model, verdict.version, verdict.to, verdict.failures()))


def rollback(root: Path, alias: str, reason: str, model: str | None = None) -> tuple[str, Decision, bool]:
    """Return `staging` to the version that `previous` names, once its bundle has shown that it still answers.

    Returns:
        The model, the decision, and whether it was made now: where the last one on `staging` is a rollback already,
        that is it.

    Raises:
        RequestError: another alias, or there is no previous version.
        DataError: the previous version's artifacts are missing or altered, or the registry failed.
    """
    settings = parameters.load(root / "params.yaml").registry
    model, alias = versions.of(alias, model, settings.model)
    if alias != "staging":
        raise RequestError(f"only staging is rolled back, not {alias!r}; then `llmsrec promote staging --to champion`.")
    with tracking.existing(root, aliases.REMEDY) as client, tempfile.TemporaryDirectory() as folder:
        last = aliases.last(client, model, root, settle=True)
        versions.find(client, model, alias)
        held = aliases.read(client, model)
        if "previous" not in held:
            made = aliases.already(client, model, alias, held.get(alias, 0))
            if made and made.action == "rollback":
                return model, made, False
            raise RequestError(f"{model} has no previous version to return to; promote one by its number instead.")
        version = versions.find(client, model, "previous")
        digest = evidence.model(client, version, Path(folder))
        tried = _try(Path(folder), settings.gate.requests)
        if tried.problem:
            raise DataError(f"{model} version {version.version} cannot be returned to: {tried.problem}.")
    after: Aliases = {"previous": None, "staging": int(version.version)}
    before: Aliases = {key: held.get(key) for key in after}
    wanted = replace(aliases.decide("rollback", int(version.version), alias, before, after, last + 1), reason=reason)
    about = {"installed": decision.installed(), "version": {"bundle_sha256": digest, "smoke": asdict(tried)}}
    text = decision.markdown(model, wanted, [], digest)
    return model, aliases.carry_out(root, model, held, wanted, about, text), True


def nominate(root: Path, wanted: str, model: str | None = None) -> str:
    """Give a version `registry.alias`, which has no gate, and return what to say.

    Args:
        wanted: a version's number or alias, or `name/number`, `name@alias`.

    Raises:
        RequestError: no such version.
        DataError: no registry.
    """
    settings = parameters.load(root / "params.yaml").registry
    with tracking.existing(root, aliases.REMEDY) as client:
        model, which = versions.of(wanted, model, settings.model)
        version = versions.find(client, model, which)
        was = client.get_registered_model(model).aliases.get(settings.alias)
        client.set_registered_model_alias(model, settings.alias, str(version.version))
    return f"{model} version {version.version} is `{settings.alias}` (it was {f'version {was}' if was else 'nobody'})"


def _holder(
    client: MlflowClient, model: str, number: int | None, ours: facts.Evidence, folder: Path, root: Path, limits: Gate
) -> facts.Incumbent:
    if number is None:
        return None
    _say(f"bringing what is compared with: version {number}")
    try:
        holder = client.get_model_version(model, str(number))
        theirs = evidence.evaluated(client, holder, folder)
        if facts.paired(ours, theirs):
            return theirs
        return other_data.ask(client, holder, ours, folder, root, gate.tower(limits, theirs))
    except LLMSRecError as error:
        return error


def _dropped(client: MlflowClient, model: str, holder: int | None, number: int, folder: Path) -> facts.Dropped | None:
    """What was added to the holder's catalogue and is not in the one of `folder`/ours; None where nothing was added."""
    if holder is None:
        return None
    try:
        ids = extension.added(client, client.get_model_version(model, str(holder)), folder / "added")
    except (MlflowException, OSError):  # the comparison has said what of it is gone
        return None
    known = pl.read_parquet(folder / "ours/model/artifacts/bundle/items.parquet", columns=["parent_asin"])
    again = f"llmsrec items add --from {model}/{holder} --model {model}/{number}"
    return facts.Dropped(holder, len(set(ids) - set(known["parent_asin"])), again)


def _try(model: Path, requests: int) -> facts.Smoke:
    """A smoke load of a version's folder, which was verified when it was brought here."""
    _say(f"smoke load: {requests} requests of each tower, in a fresh process")
    return smoke(model / "artifacts/bundle", requests, lambda step: _say(f"  {step}"))


def _say(what: str) -> None:
    """How far it is: a person waits for a minute."""
    print(what, flush=True)


def _changed(trained: dict[str, str], params: Params) -> list[str]:
    """What params.yaml now says otherwise than when the version was trained; its own values are what counts."""
    now = {key: str(value) for key, value in used(params).items()}
    return [f"{key} {value} -> {now[key]}" for key, value in trained.items() if now.get(key, value) != value]


def _what_sets(alias: str) -> str:
    if alias == "previous":
        return "`previous` follows `staging`"
    if alias == "latest" or (alias[:1] == "v" and alias[1:].isdigit()):
        return f"{alias!r} is reserved by MLflow"
    return "other aliases have no gate; `mlflow` sets them"
