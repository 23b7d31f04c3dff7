"""The training as an MLflow run, the bundle as a model version, the alias on it -> metrics/registered.json.

DVC re-runs this stage for what it lists; the run is told all of params.yaml, read whole here and nowhere else.
"""

import hashlib
import json
import os
from pathlib import Path

from llmsrec import params as parameters
from llmsrec.files import read_json, sha256, write_json
from llmsrec.promotion import nomination
from llmsrec.registry import card, record, revisions, tracking
from stages.common import Stage, durations, load, run

DATA, BUNDLE, MODEL, REPORTS = Path("data"), Path("models/bundle"), Path("models/llm_srec"), Path("reports")
EVALUATION, REGISTERED = Path("metrics/evaluation.json"), Path("metrics/registered.json")


def main(stage: Stage) -> None:
    params, evaluation = parameters.load(Path("params.yaml")), read_json(EVALUATION)
    known: dict[Path, str] = {}
    digest = identity(params, known)
    experiment, baseline = map(os.environ.get, ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"))
    manifests = {part: DATA / part / "manifest.json" for part in ("raw", "filtered", "split")}
    tags = record.origin(params, experiment, baseline)
    committed = revisions.params(stage.root, baseline or "HEAD")
    reports = [REPORTS / name for name in record.EVIDENCE] + [EVALUATION, BUNDLE / "parity.json"]
    logged = record.Record(
        digest=digest,
        name=record.title(params, experiment, committed),
        params=record.used(params),
        evaluation=record.searched(evaluation, read_json(BUNDLE / "parity.json")),
        seconds=durations("filter", "split", "backbone", "sasrec", "llm_srec", "evaluate", known=known),
        curve=read_json(MODEL / "curve.json"),
        data={part: sha256(path) for part, path in manifests.items()},
        tags=tags | record.evidence(REPORTS) | revisions.source(stage.root, experiment),
        files={
            "": [Path("params.yaml"), REPORTS / "plots"],
            "reports": reports,
            **{f"data/{part}": [path] for part, path in manifests.items()},
        },
    )
    settings = stage.params.registry
    with tracking.connected(stage.root) as client:
        place = tracking.experiment(client, settings.experiment, stage.root)
        run_id = tracking.ensure_run(client, place, logged)
        about = tags | {tracking.DIGEST: digest}
        version = tracking.ensure_version(client, place, run_id, settings.model, BUNDLE, about)
        facts = card.read(settings.model, version, run_id, logged, DATA, REPORTS, BUNDLE)
        card.attach(client, settings.model, version, card.text(facts))
        refused = nomination.refusal(client, settings.model, settings.alias, version, settings.nominate, tags)
        if not refused:
            client.set_registered_model_alias(settings.model, settings.alias, str(version))
    sealed = read_json(BUNDLE / "manifest.json")["bundle_sha256"]
    write_json(REGISTERED, {"name": settings.model, "version": version, "run_id": run_id, "bundle_sha256": sealed})
    state = f"is not made `{settings.alias}`: {refused}" if refused else f"is `{settings.alias}`"
    print(f"{settings.model} version {version} {state}; run {run_id}: {logged.name}", flush=True)


def identity(params: parameters.Params, known: dict[Path, str]) -> str:
    """What makes a run another run: the inputs of its training and how it is evaluated, not where it is registered."""
    code = {path: digest for path, digest in load("evaluate", known=known).deps.items() if path.endswith(".py")}
    inputs = {
        "training": load("llm_srec", known=known).digest,
        "evaluation": params.evaluate.model_dump(),
        "code": code,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    run(main, "register")
