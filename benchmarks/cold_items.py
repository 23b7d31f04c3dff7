"""New items by title: how items that training never saw are ranked for the users who took them.

    python -m benchmarks.cold_items --out ../cold      # the built-in sample; a training: minutes
    python -m benchmarks.cold_items --out ../cold --files data/beauty --category Beauty --users 0.5

The pipeline's own stages run in a folder below --out, with a share of the items held out (`data.cold_fraction`). The
held-out items then get vectors as `llmsrec items add` gives them, and each user who took one is asked about it: in
`valid` about the last one up to the user's last training event, in `test` about the last one after it. A history is
what the user had before, of known items. What stands for the embedding that no teacher has is chosen on validation, by
NDCG@10 among all items; the teacher and the blend are asked with it, too. A teacher that knows titles (`--items sum`)
has embeddings of its own for them. Last, what the new items cost the known ones. What is done below --out is not done
again.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import polars as pl

from benchmarks.common import stages, workspace
from llmsrec.data import cold
from llmsrec.data.sequences import Sequences
from llmsrec.data.titles import UNTITLED
from llmsrec.engine import backbone as backbones
from llmsrec.engine.text_vectors import text_vectors
from llmsrec.evaluation.blend import Blend
from llmsrec.evaluation.blend import items as joined
from llmsrec.evaluation.metrics import per_user
from llmsrec.evaluation.names import HEADLINE
from llmsrec.evaluation.ranks import rank
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.export import extended
from llmsrec.items.cost import asked_of
from llmsrec.models.text.whitening import Whitening
from llmsrec.params import Items
from llmsrec.scoring import held_out
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.llm_tower import LLMTower
from llmsrec.serving.nearest_title import NearestTitle
from llmsrec.serving.on_torch import OnTorch
from llmsrec.serving.towers import CFTower, History, Teacher

STAGES = (
    "ingest", "filter", "split", "validate", "start", "backbone", "texts", "sasrec", "llm_srec", "evaluate", "export"
)  # fmt: skip
RECENT = 10  # items of a history that a mean of text vectors is over, as many as the prompt holds
SEED = 5
BOOTSTRAP = Bootstrap(1000, SEED)
AMONG = ("cold", "all")
Vectors = tuple[np.ndarray, np.ndarray]  # `[n, d]` of users, `[I + C + 1, d]` of items, the held-out ones last


@dataclass(frozen=True)
class Asked:
    """Users and the held-out item that each took.

    Attributes:
        histories: what each knew before: `[n]`, each with one event at least.
        targets: `[n]` numbers of held-out items, 1..C.
        before: of each the held-out items that the user had before.
    """

    histories: list[History]
    targets: np.ndarray
    before: list[np.ndarray]

    def ranks(self, vectors: Vectors, known: int, among: str) -> np.ndarray:
        """`[n]` 0-based ranks of the targets among the held-out items, or among all but what the user had.

        Args:
            known: items of the training, I.
        """
        users, items = vectors
        if among == "cold":
            return rank(users, items[known:], self.targets, *_csr(self.before))["full"]
        had = [np.concatenate([of.items, known + own]) for of, own in zip(self.histories, self.before, strict=True)]
        return rank(users, items, known + self.targets, *_csr(had))["full"]


def main() -> None:
    options = arguments()
    name = f"cold-{options.fraction:g}" + (f"-{options.items}" if options.items != "id" else "")
    values = {"data.cold_fraction": options.fraction, "sasrec.items": options.items}
    source: tuple[str, ...] = ()
    if options.files:
        source, name = ("files",), f"{name}-{options.category}-{options.users:g}"
        values |= {"data.source": "files", "data.dir": str(options.files.resolve()), "data.category": options.category}
        values |= {"data.user_fraction": options.users}
    folder = workspace(options.out.resolve() / name, values)
    stages(folder, (*source, *(name for name in STAGES if name != "texts" or options.items != "id")))
    print(table(folder))


def asked(folder: Path) -> dict[str, Asked]:
    """`valid` and `test` of a run with held-out items.

    Args:
        folder: a repository in which the stages have run.
    """
    filtered = folder / "data/filtered"
    known = Sequences.read(filtered / "interactions.parquet")
    train = pl.read_parquet(folder / "data/split/train.parquet").group_by("user_id").agg(end=pl.col("timestamp").max())
    events = pl.read_parquet(filtered / cold.EVENTS).join(train, on="user_id", maintain_order="left")
    late = pl.col("timestamp") > pl.col("end")
    return {name: _last(known, events, of) for name, of in (("valid", ~late), ("test", late))}


def _last(known: Sequences, events: pl.DataFrame, of: pl.Expr) -> Asked:
    """Each user's last event of those that `of` names, if there was something before it."""
    histories, targets, before = [], [], []
    last = events.filter(of).group_by("user_id", maintain_order=True).last()
    for user, item, time in last.select("user_id", "item_id", "timestamp").iter_rows():
        items, times = known.of(user)
        earlier = times < time
        if earlier.any():
            own = events.filter(pl.col("user_id") == user, pl.col("timestamp") < time)["item_id"].to_numpy()
            histories.append(History(items[earlier].astype(np.int64), times[earlier], unknown=[]))
            targets.append(item)
            before.append(own[own != item].astype(np.int64))
    return Asked(histories, np.array(targets, dtype=np.int64), before)


def table(folder: Path) -> str:
    """The choice on validation, and all rows on test."""
    items = pl.read_parquet(folder / "data/filtered" / cold.ITEMS)
    bundle, questions = Bundle.open(folder / "models/bundle"), asked(folder)
    tower, known = LLMTower(bundle, OnTorch(bundle)), len(bundle.items)
    titles = bundle.items["title"].to_list() + items["title"].to_list()
    texts = text_vectors(backbones.load(folder / "models/backbone"), titles)
    spread = unit(Whitening.of(texts[: known + 1])(texts).numpy())
    embeddings = stand_ins(bundle, titles, spread)
    if bundle.reads_titles:
        embeddings["teacher's, by title"] = tower.embeddings_of(titles[known:])
    inputs = {name: tower.inputs_of(of) for name, of in embeddings.items()}
    inputs = {"zero": np.zeros_like(inputs["mean"]), **inputs}
    ours = {
        name: np.concatenate([bundle.tensors["item_vectors"], tower.of_titles(titles[known:], of)])
        for name, of in inputs.items()
    }
    valid, test = questions["valid"], questions["test"]
    users = {name: _users(tower.vectors, of.histories) for name, of in questions.items()}
    scores = {
        name: {among: per_user(valid.ranks((users["valid"], vectors), known, among), "ndcg_10") for among in AMONG}
        for name, vectors in ours.items()
    }
    chosen = max(scores, key=lambda name: float(scores[name]["all"].mean()))
    lines = [
        f"{len(items):,} of {known + len(items):,} items held out; {len(test.targets):,} users of test took one after "
        f"their last training event, {len(valid.targets):,} of valid before",
        "",
        "| stand-in, valid NDCG@10 | among cold items | among all items |",
        "|---|---|---|",
        *(f"| {name} | {' | '.join(_mean(of[among]) for among in AMONG)} |" for name, of in scores.items()),
        "",
        f"chosen on validation: {chosen}",
        "",
    ]
    counts = np.concatenate([[0], bundle.items["count"].to_numpy(), np.zeros(len(items))])[:, None].astype(np.float64)
    random = np.random.default_rng(SEED)
    rows: dict[str, Vectors] = {f"LLM-SRec, {name}": (users["test"], vectors) for name, vectors in ours.items()}
    if "cf" in bundle.towers:
        rows[f"LLM-SRec's tower cf, {chosen}"] = (_users(CFTower(bundle).vectors, test.histories), ours[chosen])
    rows |= of_teacher(bundle, users["test"], embeddings, test.histories, ours[chosen])
    rows |= {
        "backbone's text vectors, raw": of_texts(unit(texts.double().numpy()), test.histories),
        "backbone's text vectors, whitened": of_texts(spread, test.histories),
        "popularity": (np.ones((len(test.targets), 1)), counts),
        "random order": (random.normal(size=(len(test.targets), 64)), random.normal(size=(len(titles) + 1, 64))),
    }
    return "\n".join(lines + _rows(test, rows, f"LLM-SRec, {chosen}", known) + _cost(folder, bundle, items))


def _rows(test: Asked, rows: dict[str, Vectors], ours: str, known: int) -> list[str]:
    lines = []
    for among in AMONG:
        ranks = {name: test.ranks(vectors, known, among) for name, vectors in rows.items()}
        best = per_user(ranks[ours], "ndcg_10")
        lines += [
            f"| test, among {among} items | NDCG@10 | HR@10 | NDCG@10 of `{ours}` minus it |",
            "|---|---|---|---|",
        ]
        for name, of in ranks.items():
            minus = BOOTSTRAP.difference(best, per_user(of, "ndcg_10"))
            shown = f"{minus['difference']:+.3f} [{minus['low']:+.3f}, {minus['high']:+.3f}]" if name != ours else ""
            lines.append(f"| {name} | {' | '.join(_mean(per_user(of, metric)) for metric in HEADLINE)} | {shown} |")
        lines.append("")
    return lines


def _cost(folder: Path, bundle: Bundle, items: pl.DataFrame) -> list[str]:
    """What `items add` of the held-out items costs the known ones, as it measures it (`items.cost`)."""
    users = asked_of(pl.read_parquet(folder / "reports/test_users.parquet"))
    added = items.filter(pl.col("title") != UNTITLED).select("parent_asin", "title", "store", "categories")
    with TemporaryDirectory(dir=folder) as place:
        longer = Path(place) / "longer"
        extended.write(longer, bundle, added, "cold/1")
        pairs = {tower: [_known(of, users, tower) for of in (Bundle.open(longer), bundle)] for tower in bundle.towers}
    differences = {tower: BOOTSTRAP.difference(*pair) for tower, pair in pairs.items()}
    return [
        f"| {len(users):,} test users' known items, {len(added):,} added to {len(bundle.items):,} | NDCG@10 without "
        "them | with, minus without |",
        "|---|---|---|",
        *(
            f"| {tower} | {_mean(pairs[tower][1])} | {of['difference']:+.4f} [{of['low']:+.4f}, {of['high']:+.4f}] |"
            for tower, of in differences.items()
        ),
    ]


def _known(bundle: Bundle, users: pl.DataFrame, tower: str) -> np.ndarray:
    return per_user(held_out.rank(bundle, users, tower).ranks["full"], "ndcg_10")


def stand_ins(bundle: Bundle, titles: list[str], texts: np.ndarray) -> dict[str, np.ndarray]:
    """Embeddings of known items that may stand for those of the held-out items: `[C, d]` each.

    Args:
        titles: `[I + C]`, of the items of the training first.
        texts: `[I + C + 1, w]` whitened text vectors of length 1.
    """
    known, embeddings = len(bundle.items), bundle.tensors["item_embeddings"]
    by_words = NearestTitle(titles[:known]).of(titles[known:])
    by_vector = 1 + (texts[known + 1 :] @ texts[1 : known + 1].T).argmax(axis=1)
    mean = np.repeat(embeddings[1:].mean(axis=0, keepdims=True), len(titles) - known, axis=0)
    return {"mean": mean, "nearest by text vectors": embeddings[by_vector], "nearest by words": embeddings[by_words]}


def of_teacher(
    bundle: Bundle,
    of_llm: np.ndarray,
    embeddings: dict[str, np.ndarray],
    histories: list[History],
    vectors: np.ndarray,
) -> dict[str, Vectors]:
    """The teacher and the blend by each of what may stand for the embeddings of held-out items.

    Args:
        of_llm: `[n, d']` the users' vectors of `llm`.
        embeddings: `[C, d]` each.
        vectors: `[I + C + 1, d']` of `llm`, the held-out items' last.
    """
    teacher, blend = Teacher(bundle), Blend(**bundle.config["blend"])
    of_teacher = _users(teacher.vectors, histories)
    tables = {name: np.concatenate([bundle.tensors["item_embeddings"], of]) for name, of in embeddings.items()}
    by_teacher: dict[str, Vectors] = {f"its teacher, {name}": (of_teacher, table) for name, table in tables.items()}
    users = blend.users(of_llm, of_teacher)
    return by_teacher | {f"blend, {name}": (users, joined(vectors, table)) for name, table in tables.items()}


def of_texts(texts: np.ndarray, histories: list[History]) -> Vectors:
    """Users as the mean of their recent items' vectors."""
    return np.stack([texts[history.items[-RECENT:]].mean(axis=0) for history in histories]), texts


def unit(vectors: np.ndarray) -> np.ndarray:
    """Of length 1 each, but for zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _users(vectors: Callable[[list[History]], np.ndarray], histories: list[History]) -> np.ndarray:
    return np.concatenate([vectors(histories[start : start + 32]) for start in range(0, len(histories), 32)])


def _csr(lists: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([[0], np.cumsum([len(of) for of in lists])]), np.concatenate([*lists, np.empty(0, np.int64)])


def _mean(values: np.ndarray) -> str:
    estimate = BOOTSTRAP.mean(values)
    return f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the data and the training")
    parser.add_argument("--fraction", type=float, default=0.1, help="data.cold_fraction (default: %(default)s)")
    parser.add_argument("--items", choices=get_args(Items), default="id", help="sasrec.items (default: %(default)s)")
    parser.add_argument("--files", type=Path, help="folder of raw files, instead of the built-in sample")
    parser.add_argument("--category", default="Beauty", help="which of them (default: %(default)s)")
    parser.add_argument(
        "--users", type=float, default=1.0, help="with --files: data.user_fraction (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
