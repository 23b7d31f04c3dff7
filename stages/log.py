"""One of the compared systems as an MLflow run of LLM-SRec's experiment: `python -m stages.log gru4rec-retrieval`."""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from llmsrec import params as parameters
from llmsrec.evaluation import report, slices
from llmsrec.evaluation.names import MODELS
from llmsrec.files import read_json, sha256, write_json
from llmsrec.registry import record, revisions, tracking
from stages.common import Stage, durations, load, run
from stages.rank import OUT, task

METRICS, DATA, BASELINES = Path("metrics/systems"), Path("data"), Path("baselines")
PAIRED = (DATA / "filtered/interactions.parquet", DATA / "split/candidates.parquet")
EVERYWHERE = ("data.", "sample.", "split.")


def main(stage: Stage) -> None:
    name = stage.name.partition("@")[2]
    known: dict[Path, str] = {}
    both = f"train@{name}", f"rank@{name}"
    training, ranking = (load(which, BASELINES, known) for which in both)
    given, evaluation = task(ranking), read_json(OUT / f"{name}.json")
    params, test = parameters.load(Path("params.yaml")), given.asked["test"]
    keys = tuple(f"{key}." for key in vars(training.params) if key not in ("data", "split"))
    used = {key: value for key, value in record.used(params).items() if key.startswith((*EVERYWHERE, *keys))}
    own = {f"{given.system}.{key}": value for key, value in record.flatten(given.settings.model_dump()).items()}
    manifests = {part: DATA / part / "manifest.json" for part in ("raw", "filtered", "split")}
    identity = [training.digest, sha256(OUT / f"{name}.parquet"), sha256(OUT / f"{name}.json")]
    with TemporaryDirectory() as place:
        ranks, groups = Path(place) / "ranks.parquet", Path(place) / "slices.parquet"
        shutil.copyfile(OUT / f"{name}.parquet", ranks)
        of_test = slices.of_test(given.interactions, given.sequences, test.users, test.targets)
        report.write_slices(groups, of_test, test.users)
        told = record.Record(
            digest=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
            name=f"{MODELS[given.system]}, {given.form} on {params.data.category}",
            params=used | own,
            evaluation=evaluation,
            curve=[{"step": row["epoch"]} | row for row in read_json(given.folder / "curve.json")],
            data={part: sha256(path) for part, path in manifests.items()},
            tags={record.SYSTEM: given.system, record.FORM: given.form, "data.category": params.data.category}
            | record.paired({path.name: sha256(path) for path in PAIRED})
            | revisions.source(stage.root, None),
            files={
                "": [Path("params.yaml"), Path(f"systems/{given.system}.yaml")],
                "reports": [ranks, groups],
                **{f"data/{part}": [path] for part, path in manifests.items()},
            },
            model=given.system,
            seconds=durations(*both, folder=BASELINES, known=known),
        )
        with tracking.connected(stage.root) as client:
            place_of = tracking.experiment(client, stage.params.registry.experiment, stage.root)
            run_id = tracking.ensure_run(client, place_of, told)
    write_json(METRICS / f"{name}.json", {"run_id": run_id} | evaluation)
    print(f"{told.name}: run {run_id}", flush=True)


if __name__ == "__main__":
    run(main, f"log@{sys.argv[1]}", BASELINES)
