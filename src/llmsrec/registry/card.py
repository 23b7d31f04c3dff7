"""The model card of a version: what it is for, what it was made from, how good it is for whom, what it cannot do."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from llmsrec.data.tally import tally
from llmsrec.evaluation import tables, towers
from llmsrec.evaluation.names import HEADLINE, MODELS, PROTOCOLS
from llmsrec.files import read_json
from llmsrec.registry.record import Record

LONGEST = 5000  # of a version's description, in a database that is strict about it
OFFLINE = "- Measured offline, on one split and one seed; what users do when they see the items is not known."
ROWS = ("all", "warm", "cold", "transition", "non_transition")


@dataclass(frozen=True)
class Facts:
    """What a card tells of.

    Attributes:
        model, version, run_id: where it is registered.
        logged: what its run holds: name, parameters, metrics, curve.
        comparison, checks: reports/comparison.json and reports/checks.json.
        manifests: part of the data (raw, filtered, split) -> its manifest.json.
        config, parity: the bundle's config.json and parity.json.
        bundle_sha256: the bundle's digest.
    """

    model: str
    version: int
    run_id: str
    logged: Record
    comparison: dict[str, Any]
    checks: dict[str, Any]
    manifests: dict[str, dict[str, Any]]
    config: dict[str, Any]
    parity: dict[str, Any]
    bundle_sha256: str


def read(model: str, version: int, run_id: str, logged: Record, data: Path, reports: Path, bundle: Path) -> Facts:
    """The facts, from the folders that the stages leave."""
    return Facts(
        model=model,
        version=version,
        run_id=run_id,
        logged=logged,
        comparison=read_json(reports / "comparison.json"),
        checks=read_json(reports / "checks.json"),
        manifests={part: read_json(data / part / "manifest.json") for part in ("raw", "filtered", "split")},
        config=read_json(bundle / "config.json"),
        parity=read_json(bundle / "parity.json"),
        bundle_sha256=read_json(bundle / "manifest.json")["bundle_sha256"],
    )


def text(facts: Facts) -> str:
    """The card in Markdown. A slice without users has no row, and a section with nothing to say is not there."""
    own = {"use": _use(facts), "training": _training(facts), "limits": _limits(facts), "load": _load(facts)}
    return page(facts, _headline(facts), **own)


def page(
    facts: Facts,
    headline: str,
    *,
    use: Iterator[str],
    training: Iterator[str],
    limits: Iterator[str],
    load: Iterator[str],
) -> str:
    """The card, of its first line, the sections that depend on the kind of model, and those of any."""
    sections = {
        "Intended use": use,
        "Data": _data(facts),
        "Training": training,
        "Metrics": _metrics(facts),
        "Limits": limits,
        "How to load": load,
    }
    parts = [headline, f"# {facts.model} version {facts.version}", facts.logged.name]
    parts += ["\n".join([f"## {title}", *lines]) for title, lines in sections.items()]
    return "\n\n".join(parts) + "\n"


def _headline(facts: Facts) -> str:
    """The key metric, as lists of versions show a description's first line."""
    means = facts.comparison["means"]
    full, uni99 = (
        [short(means[model]["test"][protocol]["ndcg_10"]["mean"], 4) for model in ("llm_srec", "sasrec")]
        for protocol in ("full", "uni99")
    )
    return f"NDCG@10 {full[0]} among all items (SASRec {full[1]}), {uni99[0]} on uni99 ({uni99[1]})"


def extended(model: str, version: int, run_id: str, about: dict[str, Any], now: int, card: str) -> str:
    """The card of a version with added items: what they are and cost, and under that the card of what it extends.

    Args:
        about: reports/added.json.
        now: how many items this version added; the others were before.
        card: of the version that it extends.
    """
    headline, extends = card.partition("\n")[0], about["extends"]
    lines = [
        f"{headline}, without the items that were added" if not _is_extended(card) else headline,
        "",
        f"# {model} version {version}",
        "",
        f"{now:,} items added to {extends['version']} by their titles, without training",
        "",
        "## Added items",
        f"- catalogue: {about['trained']:,} items of the training, {about['items']:,} that it never saw",
        "- all towers recommend them, and read them in histories: docs/serving.md says by which vectors",
        *(
            f"- test users' own items in the longer catalogue, NDCG@10 among all items, {tower}: "
            f"{cost['difference']:+.4f} [{cost['low']:+.4f}, {cost['high']:+.4f}] ({about['users']:,} users)"
            for tower, cost in about["towers"].items()
        ),
        *_indexed(about.get("index", {})),
        "- how well they are recommended themselves is not measured here (docs/experiments.md, on new items)",
        f"- run {run_id}, bundle `{about['bundle_sha256'][:16]}`, extends bundle `{extends['bundle_sha256'][:16]}`",
        "",
        f"What follows is the card of {extends['version']}; its figures are among the items of the training.",
        "",
    ]
    uri = f"models:/{extends['version']}"
    return "\n".join(lines) + re.sub(rf"{re.escape(uri)}\b", f"models:/{model}/{version}", card)


def _is_extended(card: str) -> bool:
    return "\n## Added items\n" in card


def description(card: str) -> str:
    """The card as a version's description: whole, or cut between two lines where a database would refuse it."""
    if len(card) <= LONGEST:
        return card
    end = "\n\nCut here; the whole card is among the run's artifacts, in cards/.\n"
    return card[: LONGEST - len(end)].rpartition("\n")[0] + end


def attach(client: MlflowClient, model: str, version: int, card: str) -> None:
    """Give a version its card, as its description and among its run's files; one that has a card keeps it."""
    registered = client.get_model_version(model, str(version))
    if not registered.description:
        client.log_text(str(registered.run_id), card, f"cards/{model}-{version}.md")
        client.update_model_version(model, str(version), description(card))


def _use(facts: Facts) -> Iterator[str]:
    items, prompts = facts.config["shapes"]["items"], facts.config["prompts"]
    yield f"Recommends the next of {items:,} items from a user's events: what, and when. A user need not have"
    yield "been in the training data; items outside the catalogue are skipped and named, and a history with none"
    yield "left gets the popular items and says so."
    yield ""
    yield f"- `tower: llm` reads the last {prompts['history']} items through the backbone, as a prompt of titles."
    length, teacher = facts.config["shapes"]["max_length"], _teacher(facts)
    if facts.config["distilled"]:
        yield f"- `tower: cf` reads the last {length} through {teacher}, without a language model."
    yield f"- `tower: teacher` is {teacher} itself, on the last {length} items and its own item vectors."
    yield ""
    yield "Not for other catalogues, for items added since, or for decisions about people."


def _teacher(facts: Facts) -> str:
    return MODELS[facts.comparison.get("teacher", "sasrec")]


def _data(facts: Facts) -> Iterator[str]:
    raw, filtered, split = (facts.manifests[part] for part in ("raw", "filtered", "split"))
    tags, left = facts.logged.tags, filtered["steps"][-1]
    yield f"- {tags['data.category']} ({tags['data.source']}): {raw['reviews']:,} events of {raw['items']:,} items"
    yield (
        f"- after the {filtered['core']}-core: {left['users']:,} users, {left['items']:,} items, {left['events']:,} "
        "events; titles, times and ids only"
    )
    if "cold" in filtered:
        yield f"- {filtered['cold']['items']:,} items were held out of all that follows (data.cold_fraction)"
    events = split["events"]
    yield f"- leave-last-out by time: {events['train']:,} train, {events['valid']:,} valid, {events['test']:,} test"
    yield f"- data checks: {tally(facts.checks['suites'])}"
    for part, digest in facts.config["data"].items():
        yield f"- {part}: sha256 `{digest[:16]}`, manifest in the run's artifacts (`data/{part}/manifest.json`)"


def _training(facts: Facts) -> Iterator[str]:
    params, curve = facts.logged.params, facts.logged.curve
    backbone = params["backbone.model"]
    yield f"- backbone {backbone}" + (f"@{params['backbone.revision']}" if params.get("backbone.revision") else "")
    settings = f", d {params['sasrec.dim']}, loss {params['sasrec.loss']}" if _teacher(facts) == "SASRec" else ""
    yield f"- teacher {_teacher(facts)}{settings}"
    if begin := facts.config.get("start"):
        yield f"- started from {begin['version']}, bundle `{begin['bundle_sha256'][:16]}`"
    losses = [f"retrieval {params['model.weights.retrieval']:g}"]
    if params["model.weights.cf_retrieval"]:
        losses.append(f"retrieval by f_CF-user {params['model.weights.cf_retrieval']:g}")
    if params["model.distill"]:
        losses.append(f"distillation {params['model.weights.distill']:g} ({params['model.distill_loss']})")
    if params["model.uniform"]:
        losses.append(f"uniformity {params['model.weights.uniform']:g}")
    yield f"- d' {params['model.d_prime']}, losses: {', '.join(losses)}"
    order = "shuffled" if params["split.shuffle_train"] else "in order"
    epochs, seed = params["train.epochs"], params["train.seed"]
    yield f"- {len(curve)} checks in at most {epochs} epochs, seed {seed}, histories {order}"
    yield origin(facts)


def origin(facts: Facts) -> str:
    """The line of the training that names the run, what went into it, and the bundle that came out."""
    return f"- run {facts.run_id}, inputs `{facts.logged.digest[:16]}`, bundle `{facts.bundle_sha256[:16]}`"


def _metrics(facts: Facts) -> Iterator[str]:
    """All models of its comparison, and its towers where it has several."""
    means, interval = facts.comparison["means"], facts.comparison["interval"]
    models = [model for model in MODELS if model in means]
    yield (
        f"Test, every user's last item, ties against the model; {interval['level']} % bootstrap intervals over users "
        f"({interval['resamples']} resamples)."
    )
    # MLflow's page puts no space between columns, so a header is shorter than the figures below it.
    head = [name for model in models for name in (MODELS[model], "HR")]
    for protocol, meaning in PROTOCOLS.items():
        yield ""
        yield f"**{protocol}**: {meaning.format(negatives=facts.comparison['negatives'])}; NDCG@10, and HR@10 beside it"
        yield ""
        yield f"| test users | {' | '.join(head)} |"
        yield f"|---|{'---|' * len(head)}"
        counts = facts.comparison["users"]
        for row in sorted(counts, key=ROWS.index):
            if users := counts[row]:
                scores = [means[model]["test"][protocol] for model in models]
                yield _row(
                    f"{row.replace('_', '-')}, {users:,} users",
                    [score if row == "all" else score[row] for score in scores],
                )
        yield _row("all, histories shuffled", [means[model]["test_shuffled"][protocol] for model in models])
    at_20 = [
        f"{MODELS[model]} {protocol} {facts.logged.evaluation[model]['test'][protocol]['ndcg_20']:.4f} / "
        f"{facts.logged.evaluation[model]['test'][protocol]['hr_20']:.4f}"
        for model in models
        for protocol in PROTOCOLS
    ]
    yield ""
    yield f"NDCG@20 / HR@20: {', '.join(at_20)}."
    if indexed := facts.parity.get("index"):
        yield ""
        yield from _indexed(indexed)
    if of_llm := facts.parity.get("language_model"):
        yield ""
        yield _language_model(of_llm)
    measured = facts.comparison["towers"]
    if len(measured["ndcg_10"]) == 1:
        return
    yield ""
    yield tables.markdown([towers.table(measured)]).rstrip()
    if "overlap_10" in measured:
        yield ""
        yield f"The top 10 of llm and cf have {measured['overlap_10']['mean']:.0%} in common."


def _language_model(of: dict[str, Any]) -> str:
    """What `llmsrec serve` runs the language model on."""
    if of["runtime"] == "torch":
        return f"`llmsrec serve` runs the language model on torch: {of['reason']}."
    return (
        f"`llmsrec serve` runs the language model on ONNX Runtime: overlap@10 with torch {of['overlap_10']:.4f}, "
        f"hidden states within {of['largest_difference']:.1e} ({of['prompts']} users and as many items)."
    )


def _indexed(measured: dict[str, Any]) -> Iterator[str]:
    """What is lost by an index over the items: the figures above are of all items, scored one by one."""
    for tower, share in measured.items():
        yield f"- an index searches the items of tower {tower}, and finds {share['recall_10']:.1%} of the exact 10 best"


def _row(name: str, scores: list[dict[str, Any]]) -> str:
    cells = [
        f"{short(score[m]['mean'], 4)} [{short(score[m]['low'])}, {short(score[m]['high'])}]"
        for score in scores
        for m in HEADLINE
    ]
    return f"| {name} | {' | '.join(cells)} |"


def short(value: float, digits: int = 3) -> str:
    """`.379`"""
    return f"{value:.{digits}f}".removeprefix("0")


def _limits(facts: Facts) -> Iterator[str]:
    ours = facts.comparison["differences"]["llm_srec_minus_sasrec"]["full"]
    yield f"- Against SASRec, among all items: {verdict(ours['ndcg_10'], 'better', 'worse')}."
    if "cold" in ours:
        yield f"- On cold items, the rarest third: {verdict(ours['cold']['ndcg_10'], 'better', 'worse')}."
    order = facts.comparison["shuffle"]["llm_srec"]["full"]["ndcg_10"]
    yield f"- Shuffling a user's history makes it {verdict(order, 'better', 'worse')}."
    if cf := facts.comparison["towers"]["minus_teacher"].get("cf"):
        lost = cf["full"]["high"] < 0
        yield (
            f"- Tower cf against its teacher, among all items: {verdict(cf['full'], 'better', 'worse')}"
            f"{'; serve `teacher` instead' if lost else ''}."
        )
    if beside := facts.comparison["towers"].get("blend_minus_llm"):
        teacher = facts.comparison["towers"]["minus_teacher"]["blend"]["full"]
        yield f"- Tower blend against its teacher, among all items: {verdict(teacher, 'better', 'worse')}."
        yield f"- Tower blend against tower llm, among all items: {verdict(beside['full'], 'better', 'worse')}."
    yield OFFLINE
    if not facts.config["distilled"]:
        yield "- Trained without distillation, so `tower: cf` is refused."


def verdict(minus: dict[str, float], up: str, down: str) -> str:
    """What a difference and its interval say, in words."""
    word = up if minus["low"] > 0 else down if minus["high"] < 0 else "neither better nor worse beyond noise"
    return f"{word}, NDCG@10 {minus['difference']:+.4f} [{minus['low']:+.4f}, {minus['high']:+.4f}]"


def _load(facts: Facts) -> Iterator[str]:
    uri = f"models:/{facts.model}/{facts.version}"
    yield "    export MLFLOW_TRACKING_URI=...   # of this server"
    yield f"    llmsrec serve {uri}   # or: mlflow models serve -m {uri} --env-manager local"
    yield f"    llmsrec recommend --model {uri} --tower llm --history <parent_asin>@<ms> --k 10"
    yield f'    mlflow.pyfunc.load_model("{uri}").predict([{{"history": [...], "k": 10, "tower": "llm"}}])'
