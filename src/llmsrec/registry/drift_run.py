"""A comparison of requests with a version's training data as an MLflow run, beside the version's own."""

from pathlib import Path

from llmsrec.registry import names, tracking

TAG = "llmsrec.drift"  # of the run: the version that requests were compared with


def log(root: Path, version: str, metrics: dict[str, float], drifted: bool, folder: Path) -> str:
    """Make the run, in the experiment of the version's training; its id is returned.

    Args:
        version: such as shop/3.
        metrics: by their names.
        drifted: whether there is drift.
        folder: files for the run.

    Raises:
        DataError: MLflow refuses.
    """
    with tracking.existing(root, "What was found is printed above; run the command again") as client:
        training = names.find(client, root, version.partition("/")[0], f"models:/{version}").run_id
        tags = {TAG: version, "drift": str(drifted).lower()}
        run = client.create_run(
            client.get_run(training).info.experiment_id, tags=tags, run_name=f"drift of {version.replace('/', ' ')}"
        )
        for name, value in metrics.items():
            client.log_metric(run.info.run_id, name, value)
        client.log_artifacts(run.info.run_id, str(folder))
        client.set_terminated(run.info.run_id)
    return run.info.run_id
