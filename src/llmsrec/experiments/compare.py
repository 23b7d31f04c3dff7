"""Two runs side by side, from what the registry keeps of them: parameters, metrics in pairs, sizes, latency."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import polars as pl
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from llmsrec import params as parameters
from llmsrec import yaml_file
from llmsrec.errors import DataError
from llmsrec.evaluation import pairs, rank_table, tables
from llmsrec.evaluation.names import OURS
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.evaluation.tables import Table
from llmsrec.export import smoke
from llmsrec.files import read_json, require_parquet
from llmsrec.promotion import facts
from llmsrec.registry import names, tracking
from llmsrec.registry.names import Named
from llmsrec.registry.record import SYSTEM, TOWER_RANKS, flatten
from llmsrec.registry.verified import check

RANKS, SLICES = "reports/ranks.parquet", "reports/slices.parquet"
OF_TOWERS = f"reports/{TOWER_RANKS}"
# What two runs must have in common for their users to be pairs: file of the manifest that names its digest.
COMMON = {"interactions.parquet": "data/filtered", "candidates.parquet": "data/split"}


@dataclass(frozen=True)
class Side:
    """What is known of one of the two.

    Attributes:
        named: what it is.
        title: the run's name.
        params: all of params.yaml, flat.
        metrics: as MLflow has them.
        ranks, slices: the tables of every user; None where the run does not keep them.
        common: the digests of `COMMON`.
    """

    named: Named
    title: str
    params: dict[str, str]
    metrics: dict[str, float]
    ranks: pl.DataFrame | None
    slices: pl.DataFrame | None
    common: dict[str, str]

    def __str__(self) -> str:
        version = f"{self.named.version}, " if self.named.version else ""
        return f"{self.named.name}: {version}run {self.named.run_id}, {self.title}"


@dataclass(frozen=True)
class Model:
    """A logged model that was brought here: its folder, what to call it, and its tags or those of its version."""

    folder: Path
    name: str
    tags: dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """What was found of both.

    Attributes:
        a, b: what each is, in a line.
        why_unpaired: None if their users are pairs.
        users: how many, if they are.
        rows: every figure.
        tables: all of it for people.
    """

    a: str
    b: str
    why_unpaired: str | None
    users: int
    rows: list[pairs.Row]
    tables: list[Table]

    def text(self) -> str:
        """For a terminal."""
        return f"A       {self.a}\nB       {self.b}\npaired  {self._pairing()}\n\n{tables.text(self.tables)}"

    def markdown(self) -> str:
        """For a file or a comment; it ends with a newline."""
        head = f"## A and B compared\n\n- **A** {self.a}\n- **B** {self.b}\n- **paired** {self._pairing()}\n\n"
        return head + tables.markdown(self.tables)

    def _pairing(self) -> str:
        if self.why_unpaired is None:
            return f"yes, over the same {self.users:,} users and candidates"
        return f"no: {self.why_unpaired}; paired comparison is not possible, values are side by side"


def compare(root: Path, a: str, b: str, latency: bool = True) -> Comparison:
    """Look two names up (`names.find`) in the registry of a repository and compare them.

    Args:
        latency: try both bundles, too (`smoke`), one after the other.

    Raises:
        DataError: a name means nothing, or what the registry should keep is not there or broken.
    """
    params = parameters.load(root / "params.yaml")
    with tracking.existing(root, "Compare again") as client, tempfile.TemporaryDirectory() as place:
        named = [names.find(client, root, params.registry.model, name) for name in (a, b)]
        sides = [load(client, one, Path(place) / str(number)) for number, one in enumerate(named)]
        of_ranks = between(sides[0], sides[1], Bootstrap(params.evaluate.bootstrap, params.evaluate.seed))
        models = [_model(client, one, Path(place) / f"model{number}") for number, one in enumerate(named)]
        more = [_sizes(models)] + ([_latency(models, params.registry.gate.requests)] if latency else [])
        return replace(of_ranks, tables=[*of_ranks.tables, *more])


def between(a: Side, b: Side, bootstrap: Bootstrap) -> Comparison:
    """What their parameters and ranks, or metrics, tell."""
    why, users = unpaired(a, b), 0
    if why is None:
        assert a.ranks is not None and b.ranks is not None
        if not pairs.common(a.ranks, b.ranks):
            raise DataError(
                f"{a.named.name} and {b.named.name} were ranked under different protocols ({_protocols(a.ranks)}; "
                f"{_protocols(b.ranks)}), so no figure of one stands beside one of the other; compare two of one form."
            )
        users = a.ranks["user_id"].n_unique()
        same = a.slices is not None and b.slices is not None and a.slices.equals(b.slices)
        rows = pairs.compare(a.ranks, b.ranks, a.slices if same else None, bootstrap)
    else:
        rows = pairs.unpaired(a.metrics, b.metrics)
    return Comparison(str(a), str(b), why, users, rows, [_differing(a, b), *pairs.tables(rows, bootstrap.resamples)])


def _protocols(ranks: pl.DataFrame) -> str:
    return ", ".join(ranks["protocol"].unique().sort())


def unpaired(a: Side, b: Side) -> str | None:
    """Why the users of both cannot be compared one by one, or None."""
    for name, side in (("A", a), ("B", b)):
        if side.ranks is None:
            return f"{name} keeps no ranks of its users ({RANKS}), as runs of before did not"
    differing = [file for file in COMMON if a.common.get(file) != b.common.get(file)]
    if differing:
        what = {"interactions.parquet": "other users, items or events", "candidates.parquet": "other candidates"}
        return f"they were tested on {what[differing[0]]} (digests of {differing[0]} differ)"
    return None


def load(client: MlflowClient, named: Named, place: Path) -> Side:
    """Everything that is kept of a run; what lies elsewhere is brought to `place`."""
    run = client.get_run(named.run_id)
    params = artifact(client, named, "params.yaml", place)
    values = params and yaml_file.read(params)
    manifests = {part: artifact(client, named, f"{part}/manifest.json", place) for part in set(COMMON.values())}
    outputs = {part: read_json(path)["outputs"] for part, path in manifests.items() if path}
    again = f"the artifacts of run {named.run_id} were altered: compare another run, or register this one again"
    files = [artifact(client, named, file, place) for file in (RANKS, OF_TOWERS)]
    ranks = None if files[0] is None else pl.concat(rank_table.read(file, again) for file in files if file)
    slices = artifact(client, named, SLICES, place)
    if slices:
        require_parquet(slices, ("user_id",), again)
    system = run.data.tags.get(SYSTEM, OURS)  # one of the compared systems stands where LLM-SRec does
    return Side(
        named,
        run.info.run_name,
        {key: str(value) for key, value in (flatten(values) if values else run.data.params).items()},
        run.data.metrics,
        ranks if ranks is None or system == OURS else ranks.with_columns(pl.col("model").replace(system, OURS)),
        pl.read_parquet(slices) if slices else None,
        {file: outputs[part][file] for file, part in COMMON.items() if part in outputs},
    )


def artifact(client: MlflowClient, named: Named, path: str, place: Path) -> Path | None:
    """A file that a run keeps, brought to `place` if it lies elsewhere; None if it keeps none.

    Raises:
        DataError: it cannot be read.
    """
    folder, _, _ = path.rpartition("/")
    try:
        if path not in {file.path for file in client.list_artifacts(named.run_id, folder or None)}:
            return None
        (place / folder).mkdir(parents=True, exist_ok=True)  # some stores put a file there, others its whole path
        return Path(client.download_artifacts(named.run_id, path, str(place / folder)))
    except (MlflowException, OSError) as error:
        raise DataError(
            f"{path} of run {named.run_id} cannot be read: {str(error).splitlines()[0]}; its artifacts were moved or "
            "deleted. Compare another run, or register this one again."
        ) from error


def _model(client: MlflowClient, named: Named, place: Path) -> Model | None:
    """The run's model with the bundle in it, brought to `place`; None if it has none, or it is gone."""
    if named.version:
        name, _, number = named.version.rpartition("/")
        uri, tags = f"models:/{named.version}", client.get_model_version(name, number).tags
    else:
        experiment_id = client.get_run(named.run_id).info.experiment_id
        logged = client.search_logged_models([experiment_id], filter_string=f"source_run_id = '{named.run_id}'")
        if not logged:
            return None
        uri, tags = f"models:/{logged[0].model_id}", logged[0].tags
    place.mkdir()
    try:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(place)))
    except (MlflowException, OSError):
        return None
    return Model(folder, uri, tags)


def _differing(a: Side, b: Side) -> Table:
    keys = [key for key in {**a.params, **b.params} if a.params.get(key) != b.params.get(key)]
    rows: list[tuple[str, ...]] = [(key, a.params.get(key, "-"), b.params.get(key, "-")) for key in keys]
    return Table("Parameters that differ", ("", "A", "B"), rows or [("none", "", "")])


def _sizes(models: list[Model | None]) -> Table:
    parts = {"bundle, kB": "", "ONNX, kB": "onnx/", "backbone, kB": "backbone/"}
    rows: list[dict[str, str]] = []
    for model in models:
        bundle = model.folder / "artifacts/bundle" if model else None
        if bundle is None or not bundle.is_dir():
            rows.append({})
            continue
        files = {
            path.relative_to(bundle).as_posix(): path.stat().st_size for path in bundle.rglob("*") if path.is_file()
        }
        sizes = {part: sum(files[f] for f in files if f.startswith(prefix)) for part, prefix in parts.items()}
        items = len(pl.read_parquet(bundle / "items.parquet", columns=["item_id"]))
        rows.append({part: f"{size / 1000:,.0f}" for part, size in sizes.items()} | {"items": f"{items:,}"})
    return Table("Sizes", ("", "A", "B"), _side_by_side(rows), "" if any(rows) else "neither has a bundle")


def _latency(models: list[Model | None], requests: int) -> Table:
    """Both bundles in fresh processes, A and then B."""
    rows: list[dict[str, str]] = []
    problems = []
    for name, model in zip("AB", models, strict=True):
        tried = _try(model, requests)
        if tried.problem:
            problems.append(f"{name} was not tried: {tried.problem}")
        milliseconds = {
            f"{tower} {point}, ms": f"{of_tower[point]:.1f}"
            for tower, of_tower in (tried.latency_ms or {}).items()
            for point in ("p50", "p99")
        }
        start = {} if tried.problem else {"start, s": f"{tried.load_s:.1f}", "peak memory, MB": f"{tried.peak_mb:,.0f}"}
        rows.append(milliseconds | start)
    note = f"{requests} requests of each tower in a fresh process on this machine, A and then B"
    return Table("Latency", ("", "A", "B"), _side_by_side(rows), "; ".join([note, *problems]))


def _try(model: Model | None, requests: int) -> facts.Smoke:
    """A smoke load of what is as it was registered; of nothing else is any code run."""
    if model is None:
        return facts.Smoke("it has no bundle")
    try:
        check(model.name, model.folder, model.tags)
    except DataError as error:
        return facts.Smoke(str(error))
    return smoke.smoke(model.folder / "artifacts/bundle", requests)


def _side_by_side(sides: list[dict[str, str]]) -> list[tuple[str, ...]]:
    return [(key, *(side.get(key, "-") for side in sides)) for key in {**sides[0], **sides[1]}]
