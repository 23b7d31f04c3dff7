import gzip
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from llmsrec import cli, params
from llmsrec.data import five_core, raw, sample
from llmsrec.data.sequences import Sequences
from llmsrec.drift import figures, reference, report, requests
from llmsrec.errors import DataError
from llmsrec.files import read_json
from llmsrec.serving.bundle import Bundle, verify
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import parse
from llmsrec.serving.towers import History

ROOT = Path(__file__).parents[2]
START, DAY = 1_391_040_000_000, 86_400_000  # ms
FIRST = 1_500_000_000_000  # ms; when each history of the tiny data begins: prompts show the days
LIMITS = params.load(ROOT / "params.yaml").drift
RESAMPLES, REQUESTS = 200, 300


@pytest.fixture(scope="module")
def known(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with a reference."""
    folder = tmp_path_factory.mktemp("known") / "bundle"
    shutil.copytree(tiny.bundle, folder, ignore=shutil.ignore_patterns("__pycache__"))
    whole = Sequences.read(tiny.folder / "data/filtered/interactions.parquet")
    assert reference.add(folder, whole) == verify(folder) != verify(tiny.bundle)
    return folder


@dataclass(frozen=True)
class Shop:
    """The built-in sample's users; its towers are made up: the mean of a history's items, and its last item's share."""

    counts: np.ndarray
    items: np.ndarray
    users: list[History]

    def measure(self, histories: list[History]) -> pl.DataFrame:
        known = [history.items for history in histories if len(history.items)]
        cf = np.array([self.items[items].mean(axis=0) for items in known])
        llm = np.array([self.items[items[-1]] for items in known])
        return reference.rows(histories, self.counts, {"cf": 4 * cf, "llm": 2 * llm + 2 * cf}, self.items)

    @property
    def before(self) -> pl.DataFrame:
        return self.measure(self.users[::2])

    @property
    def others(self) -> list[History]:
        """Users whom the reference does not hold."""
        return self.users[1::2]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("sample")
    settings = params.load(ROOT / "params.yaml")
    sample.generate(read_json(ROOT / "stages/sources/sample.json"), settings.sample, folder)
    raw.ingest(*raw.find(folder, "Sample"), folder / "raw", {})
    five_core.filter_reviews(folder / "raw", folder / "filtered", 5, 1.0, 0)
    sequences = Sequences.read(folder / "filtered/interactions.parquet")
    events = [sequences.of(user) for user in range(1, sequences.users + 1)]
    counts = np.bincount(sequences.drop_last(2).items)[1:]
    items = np.random.default_rng(0).normal(size=(sequences.items.max() + 1, 16))
    return Shop(counts, items, [History(items_of_user.astype(np.int64), times, []) for items_of_user, times in events])


def drawn(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    return frame[np.random.default_rng(seed).integers(0, frame.height, REQUESTS)]


def share_called_drift(shop: Shop, histories: list[History], name: str | None = None) -> float:
    """Of many draws of users with these histories; by the figure `name`, or by any."""
    before, now = shop.before, shop.measure(histories)
    calls = 0
    for seed in range(RESAMPLES):
        compared = figures.compare(before, drawn(now, seed), LIMITS)
        calls += any(figure.drifts for figure in compared if name in (None, figure.name))
    return calls / RESAMPLES


def test_users_like_those_of_the_training_are_called_drift_one_time_in_twenty_at_most(shop: Shop) -> None:
    assert share_called_drift(shop, shop.others) <= 0.05


def test_so_they_are_without_any_limit_but_chance(shop: Shop) -> None:
    """The limits of params.yaml do not hide a wrong idea of chance: both sides are drawn anew each time."""
    rows, calls = shop.measure(shop.users), 0
    none = LIMITS.model_copy(update=dict.fromkeys(("popularity", "unknown", "length", "entropy", "overlap"), 0.0))
    for seed in range(RESAMPLES):
        order = np.random.default_rng(seed).permutation(rows.height)
        before, now = rows[order[: len(order) // 2]], rows[order[len(order) // 2 :][:REQUESTS]]
        calls += any(figure.drifts for figure in figures.compare(before, now, none))
    assert calls / RESAMPLES <= 0.05


def rarer(shop: Shop, history: History, random: np.random.Generator) -> History:
    """Four of ten items are others, of those that few bought."""
    rare = np.flatnonzero(reference.bins_of(shop.counts) >= 7) + 1
    items = np.where(random.random(len(history.items)) < 0.4, random.choice(rare, len(history.items)), history.items)
    first = np.sort(np.unique(items, return_index=True)[1])
    return History(items[first], history.timestamps[first], [])


def newer(shop: Shop, history: History, random: np.random.Generator) -> History:
    """Three of twenty items are unknown."""
    gone = random.random(len(history.items)) < 0.15
    return History(history.items[~gone], history.timestamps[~gone], ["new"] * int(gone.sum()))


def shorter(shop: Shop, history: History, random: np.random.Generator) -> History:
    """At most the last five items."""
    return History(history.items[-5:], history.timestamps[-5:], [])


@pytest.mark.parametrize(("change", "name"), [(rarer, "popularity"), (newer, "unknown"), (shorter, "length")])
def test_drift_is_noticed_nineteen_times_in_twenty(shop: Shop, change: Any, name: str) -> None:
    random = np.random.default_rng(1)
    assert share_called_drift(shop, [change(shop, history, random) for history in shop.others], name) >= 0.95


def test_fewer_users_need_a_larger_difference(shop: Shop) -> None:
    before, now = shop.before, shop.measure(shop.others)
    chances = []
    for users in (50, 300, 900):
        compared = figures.compare(before, now.head(users), LIMITS)
        chances.append({figure.name: figure.chance for figure in compared})
    for name in ("popularity", "length", "entropy_cf", "overlap"):
        assert chances[0][name] > chances[1][name] > chances[2][name]


def axes_of(shop: Shop, seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, ...]]:
    """The ends of all axes of a week's picture."""
    pictures: list[Any] = []
    monkeypatch.setattr(report, "save", lambda picture, path: pictures.append(picture))
    before, now = shop.before, drawn(shop.measure(shop.others), seed)
    week = report.Comparison("shop/1", "a log", before, now, figures.compare(before, now, LIMITS))
    week.write(folder)
    return [(*axes.get_xlim(), *axes.get_ylim()) for axes in pictures[0].axes]


def test_pictures_of_like_weeks_have_the_same_axes(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (axes_of(shop, seed, tmp_path, monkeypatch) for seed in (1, 2))
    assert len(first) == 5 and first == second


@pytest.mark.parametrize(
    ("low", "high", "ends"), [(5, 37, (0, 40)), (1, 9, (1, 10)), (0.0, 0.0, (0, 2e-9)), (0.72, 0.96, (0.7, 1.0))]
)
def test_a_histogram_ends_at_whole_steps(low: float, high: float, ends: tuple[float, float]) -> None:
    sides = [np.full(200, low), np.full(200, high)]
    assert report.ends(sides) == pytest.approx(ends)


def test_psi_against_a_loop() -> None:
    before, now = np.array([10.0, 0.0, 30.0]), np.array([5.0, 1.0, 2.0])
    slow = 0.0
    for a, b in zip(before, now, strict=True):
        p, q = (a + 0.5) / (before.sum() + 1.5), (b + 0.5) / (now.sum() + 1.5)
        slow += (q - p) * math.log(q / p)
    assert figures.psi(before, now) == pytest.approx(slow)
    assert figures.psi(before, before) == 0


def test_bins_hold_about_a_tenth_of_the_events_each_popular_items_first(shop: Shop) -> None:
    bins = reference.bins_of(shop.counts)
    events = np.bincount(bins, weights=shop.counts, minlength=10)
    assert events.sum() == shop.counts.sum() and abs(events / events.sum() - 0.1).max() < 0.02
    assert all(shop.counts[bins == n].min() >= shop.counts[bins == n + 1].max() for n in range(9))
    assert reference.bins_of(np.zeros(3, dtype=np.int64)).tolist() == [0, 0, 0]


def test_the_reference_is_what_each_user_alone_would_give(tiny: Any, known: Path) -> None:
    bundle = Bundle.open(known)
    kept, recommender = reference.read(bundle), Recommender(bundle)
    whole = Sequences.read(tiny.folder / "data/filtered/interactions.parquet")
    assert kept.schema == pl.Schema(reference.COLUMNS) and kept.height == whole.users
    vectors = bundle.tensors["item_vectors"]
    right = []
    for user in range(1, whole.users + 1):
        items, times = whole.of(user)
        history = recommender.history([f"B{item}" for item in items], times.tolist())
        entropies, tops = [], []
        for name in ("cf", "llm"):
            scores = vectors[1:] @ recommender.tower(name).vectors([history])[0]
            shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            entropies.append(-sum(share * math.log(share) for share in shares) / math.log(len(shares)))
            tops.append(set(recommender.rank([history], name, 10)[0][0].tolist()))
        right.append([len(items), *entropies, len(tops[0] & tops[1]) / 10])
    rows = kept.select("length", "entropy_cf", "entropy_llm", "overlap").to_numpy()
    np.testing.assert_allclose(np.array(sorted(rows.tolist())), np.array(sorted(right)), atol=1e-4)


def log(path: Path, histories: list[list[str]], users: list[str | None] | None = None, first: int = START) -> Path:
    lines = [
        {"time": START, "user": users[n] if users else None, "tower": "cf", "status": 200,
         "history": [{"parent_asin": asin, "timestamp": first + place * DAY} for place, asin in enumerate(asins)]}
        for n, asins in enumerate(histories)
    ]  # fmt: skip
    text = "\n".join(json.dumps(line) for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def of_training(tiny: Any) -> list[list[str]]:
    whole = Sequences.read(tiny.folder / "data/filtered/interactions.parquet")
    return [[f"B{item}" for item in whole.of(user)[0]] for user in range(1, whole.users + 1)]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def test_the_training_datas_own_users_are_no_drift_and_the_report_is_written(
    tiny: Any, known: Path, root: Path, capsys: Any
) -> None:
    path = log(root / "log.jsonl.gz", 2 * of_training(tiny), first=FIRST)
    assert cli.main(["drift", "--requests", str(path), "--bundle", str(known), "--out", str(root / "out")]) == 0
    shown = capsys.readouterr().out
    assert "80 users of" in shown and "\nno drift\n" in shown
    assert sorted(file.name for file in (root / "out").iterdir()) == ["drift.json", "drift.md", "drift.png"]
    kept = read_json(root / "out/drift.json")
    assert kept["drift"] is False
    names = ["popularity", "unknown", "length", "entropy_cf", "entropy_llm", "overlap"]
    assert [figure["name"] for figure in kept["figures"]] == names
    assert "| length of histories, KS | 0 |" in (root / "out/drift.md").read_text()
    assert (root / "out/drift.png").read_bytes().startswith(b"\x89PNG")


def test_drift_is_exit_status_3_and_named(tiny: Any, known: Path, root: Path, capsys: Any) -> None:
    path = log(root / "log.jsonl", [[*asins[:2], "new one", "new two"] for asins in 2 * of_training(tiny)], first=FIRST)
    assert cli.main(["drift", "--requests", str(path), "--bundle", str(known)]) == 3
    assert "DRIFT: unknown items, share; length of histories, KS" in capsys.readouterr().out


def test_data_is_compared_too(tiny: Any, known: Path, root: Path, capsys: Any) -> None:
    shutil.copytree(tiny.folder / "data/filtered", root / "filtered")
    users = pl.DataFrame({"user_id": range(1, 41)}, schema={"user_id": pl.Int32})
    users.with_columns(raw_user_id=pl.format("u{}", "user_id")).write_parquet(root / "filtered/users.parquet")
    assert cli.main(["drift", "--data", str(root / "filtered"), "--bundle", str(known)]) == 1
    assert "holds 40 users, and drift asks for 50 at least" in capsys.readouterr().err


def test_of_a_users_requests_the_last_counts(tmp_path: Path) -> None:
    path = log(tmp_path / "log.jsonl", [["a"], ["b"], ["a", "c"], ["d"], ["e"]], ["x", "y", "x", None, None])
    assert [asins for asins, _ in requests.read(path)] == [["b"], ["a", "c"], ["d"], ["e"]]


@pytest.mark.parametrize("time", [START + 5 * DAY, "2014-02-04T00:00:00Z"])
@pytest.mark.parametrize(
    "times",
    [(START, START + DAY), ("2020-01-01", "2020-01-02T01:00:00+01:00"), (), (None, None), (START, "2020-01-02")],
)
def test_times_of_a_log_are_read_as_the_service_reads_them(tmp_path: Path, times: tuple[Any, ...], time: Any) -> None:
    history = [{"parent_asin": "a"}, {"parent_asin": "b"}]
    history = [{**event, "timestamp": when} for event, when in zip(history, times, strict=True)] if times else history
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"time": time, "user": None, "tower": "llm", "history": history}) + "\n")
    ((asins, read),) = requests.read(path)
    if any(times):  # the service itself
        assert read == [event.timestamp for event in parse([{"history": history, "k": 1, "tower": "llm"}])[0].history]
    else:  # the service's present was when the request came
        assert read == [START + 5 * DAY] * 2
    assert asins == ["a", "b"]


def test_a_part_of_the_times_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    history = [{"parent_asin": "a", "timestamp": START}, {"parent_asin": "b"}]
    path.write_text(json.dumps({"time": START, "tower": "llm", "history": history}))
    with pytest.raises(DataError, match=r"log\.jsonl, line 1: .*timestamp` is missing"):
        requests.read(path)


def test_an_old_bundle_says_what_to_do(tiny: Any) -> None:
    with pytest.raises(DataError, match=r"holds no reference\.parquet: it was exported before.*export that version"):
        reference.read(Bundle.open(tiny.bundle))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--requests", "missing.jsonl"], "missing.jsonl is not a file"),
        (["--requests", "few.jsonl"], "holds 2 users"),
        (["--requests", "broken.jsonl"], "broken.jsonl, line 1: `tower` is missing"),
        (["--requests", "empty.jsonl"], "holds 0 users"),
        (["--data", "nowhere"], "--data nowhere is not a folder"),
        (["--data", "."], "interactions.parquet is not there"),
    ],
)
def test_bad_input_is_one_line_and_status_1(
    options: list[str], said: str, known: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(root)
    log(Path("few.jsonl"), [["a"], ["b"]])
    Path("broken.jsonl").write_text('{"time": 1, "history": []}')
    Path("empty.jsonl").write_text("")
    assert cli.main(["drift", "--bundle", str(known), *options]) == 1
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and captured.out == ""
