"""A version that was tested on other data, compared all the same: asked about a challenger's test users."""

from pathlib import Path

import polars as pl
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from llmsrec import params as parameters
from llmsrec.data import held_out
from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.evaluation import test_users
from llmsrec.files import sha256
from llmsrec.promotion import evidence, facts
from llmsrec.scoring import held_out as asking
from llmsrec.serving.bundle import Bundle

FILTERED, SPLIT = "data/filtered", "data/split"


def ask(
    client: MlflowClient, holder: ModelVersion, ours: facts.Evidence, folder: Path, root: Path, tower: str
) -> facts.OnOtherData:
    """Have a version rank what the test users of `ours` took next.

    Its files are compared with the digests of its registration before they are opened, and read by this code: nothing
    that a bundle brings is run. The users are those that were kept with `ours`; of a version from before they were,
    those of the workspace, if its data are the ones that `ours` was trained on.

    What decides is the full ranking of `tower` over the holder's own catalogue, see `scoring.held_out.rank`. A
    user's target can be in what the holder was trained on where its data are the newer ones; then it is flattered.

    Args:
        folder: an empty folder, or one for reports, for the holder's files.

    Raises:
        DataError: the holder's files, catalogue or backbone cannot be loaded, or there are no test users of `ours`.
        RequestError: the tower cannot be asked here.
    """
    users = ours.test_users if ours.test_users is not None else _of_workspace(ours, root)
    evidence.model(client, holder, folder / "model")
    print(
        f"version {holder.version} was tested on other data: it is asked about {len(users):,} test users of version "
        f"{ours.version}",
        flush=True,
    )
    bundle = Bundle.open(folder / "model/artifacts/bundle")
    asked = asking.rank(bundle, users, tower)
    return facts.OnOtherData(int(holder.version), users["user_id"].to_numpy(), asked)


def _of_workspace(ours: facts.Evidence, root: Path) -> pl.DataFrame:
    filtered = root / FILTERED
    if not filtered.is_dir() or sha256(filtered) != ours.comparison["data"].get("filtered"):
        raise DataError(
            f"tested on other data, and version {ours.version} was registered before test users were kept with a "
            f"version; run `dvc repro` with its params to register it anew, or promote from the repository whose "
            f"{FILTERED} it was trained on"
        )
    params = parameters.load(root / "params.yaml")
    test = held_out.read(Sequences.read(filtered / "interactions.parquet"), root / SPLIT, "test", params.split.by)
    return test_users.of_data(filtered, params.evaluate.test_users, params.evaluate.seed, test)
