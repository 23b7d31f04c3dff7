"""All systems beside LLM-SRec, on the same users and candidates: what `llmsrec summary --all` shows."""

from pathlib import Path

import numpy as np
import polars as pl

from llmsrec import params as parameters
from llmsrec import systems
from llmsrec.errors import DataError
from llmsrec.evaluation import rank_table
from llmsrec.evaluation.metrics import of_users
from llmsrec.evaluation.names import MODELS, OURS, PROTOCOLS, SASREC_TITLES, TITLES, VALID_RATIO, meaning
from llmsrec.evaluation.significance import LEVEL, Bootstrap
from llmsrec.evaluation.tables import Table, text
from llmsrec.files import read_json

METRIC = "ndcg_10"
Frames = dict[str, pl.DataFrame]  # `<system>-<form>`, or "main": user_id, model, split, protocol, rank


def show(root: Path) -> str:
    """Tables of all that was ranked in a repository, and what was not."""
    settings, reports = parameters.load(root / "params.yaml"), root / "reports"
    frames, measured = read(reports), settings.evaluate
    shown = tables(frames, settings.split.negatives, Bootstrap(measured.bootstrap, measured.seed), reports / "ranks")
    missing = [name for name in systems.names() if name not in frames]
    more = f"\n\nnot ranked yet: {', '.join(missing)}; `dvc repro baselines/dvc.yaml` does it" if missing else ""
    return text(shown) + more


def read(reports: Path) -> Frames:
    """The ranks of the main way and of every system that was ranked.

    Raises:
        DataError: the main way's are not there, or a system was ranked on other users.
    """
    frames = {"main": rank_table.read(reports / "ranks.parquet", "`dvc repro evaluate` makes it")}
    users = _users(frames["main"])
    for name in systems.names():
        if (path := reports / "ranks" / f"{name}.parquet").is_file():
            frames[name] = rank_table.read(path, f"`dvc repro baselines/dvc.yaml:rank@{name}` makes it")
            if not np.array_equal(_users(frames[name]), users):
                raise DataError(f"{path} is of other users than the main way's; run `dvc repro baselines/dvc.yaml`.")
    return frames


def tables(frames: Frames, negatives: int, bootstrap: Bootstrap, figures: Path | None = None) -> list[Table]:
    """Retrieval under both protocols, and recommendation of titles where any was ranked.

    Args:
        negatives: of uni99.
        bootstrap: how intervals are made.
        figures: the folder of the systems' figures (`reports/ranks`), for the share of valid answers.
    """
    retrieval = pl.concat([frame for name, frame in frames.items() if not name.endswith("-titles")])
    present = set(retrieval["model"])
    shown = [_retrieval(retrieval, [model for model in MODELS if model in present], negatives, bootstrap)]
    titles = {name: frame for name, frame in frames.items() if name.endswith("-titles")}
    return shown + ([_titles(titles, bootstrap, figures)] if titles else [])


def _retrieval(ranks: pl.DataFrame, models: list[str], negatives: int, bootstrap: Bootstrap) -> Table:
    rows = []
    for model in models:
        cells: list[str] = []
        for protocol in PROTOCOLS:
            own, ours = (of_users(ranks, of, "test", protocol, METRIC) for of in (model, OURS))
            shuffled = of_users(ranks, model, "test_shuffled", protocol, METRIC)
            cells += [f"{own.mean():.4f}", _against(ours, own, bootstrap) if model != OURS else "", ""]
            cells[-1] = f"{shuffled.mean() / own.mean() - 1:+.1%}" if own.mean() else "-"
        rows.append((MODELS[model], *cells))
    head = ("", *(text for protocol in PROTOCOLS for text in (protocol, "LLM-SRec minus it", "shuffled")))
    note = (
        f"{'; '.join(meaning(protocol, negatives) for protocol in PROTOCOLS)}; difference with its "
        f"{LEVEL} % paired interval, * beyond 0; shuffled: what a shuffled history changes."
    )
    return Table("Test NDCG@10, retrieval", head, rows, note)


def _titles(frames: Frames, bootstrap: Bootstrap, figures: Path | None) -> Table:
    rows = []
    for name, frame in frames.items():
        system, _ = systems.parse(name)
        cells = []
        for protocol in TITLES:
            hits = bootstrap.mean(of_users(frame, system, "test", protocol, "hr_1"))
            cells.append(f"{hits['mean']:.4f} ({hits['low']:.4f} .. {hits['high']:.4f})")
        valid = read_json(figures / f"{name}.json")[system]["test"][TITLES[-1]][VALID_RATIO] if figures else None
        rows.append((MODELS[system], *cells, "-" if valid is None else f"{valid:.1%}"))
    first = next(iter(frames.values()))
    if not first.filter(protocol=SASREC_TITLES).is_empty():
        hits = bootstrap.mean(of_users(first, "sasrec", "test", SASREC_TITLES, "hr_1"))
        rows.append((MODELS["sasrec"], f"{hits['mean']:.4f} ({hits['low']:.4f} .. {hits['high']:.4f})", "", "", ""))
    head = ("", "likelihood", "mean likelihood", "generated", "valid answers")
    note = f"the same 20 titles for all, 0.05 by chance; in brackets the {LEVEL} % interval over users"
    return Table("Test HR@1, titles (uni19)", head, rows, note)


def _against(ours: np.ndarray, theirs: np.ndarray, bootstrap: Bootstrap) -> str:
    minus = bootstrap.difference(ours, theirs)
    mark = "*" if minus["low"] > 0 or minus["high"] < 0 else " "
    return f"{minus['difference']:+.4f} ({minus['low']:+.4f} .. {minus['high']:+.4f}){mark}"


def _users(frame: pl.DataFrame) -> np.ndarray:
    return frame.filter(split="test")["user_id"].unique().sort().to_numpy()
