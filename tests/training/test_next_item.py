import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmsrec import params
from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.models.cf.sasrec import SASRec
from llmsrec.models.losses import next_item as losses
from llmsrec.training import checkpoint
from llmsrec.training import next_item as sasrec

ITEMS = 30


def settings(**changes: object) -> params.SASRec:
    values = {
        "items": "id",
        "dim": 16,
        "blocks": 1,
        "heads": 1,
        "max_length": 8,
        "dropout": 0.1,
        "norm": "pre",
        "feed_forward": 1,
        "activation": "relu",
        "low_pass": 0.0,
        "samples": "sequences",
        "loss": "ce",
        "label_smoothing": 0.0,
        "negatives": 16,
        "gbce_t": 0.75,
        "batch_size": 16,
        "lr": 0.01,
        "schedule": "constant",
        "epochs": 4,
        "patience": 10,
        "seed": 3,
    }
    return params.SASRec(**(values | changes))


def sequences(histories: list[list[int]]) -> Sequences:
    """Users 1.. with these items."""
    offsets = np.cumsum([0, 0, *map(len, histories)])
    items = np.array([item for history in histories for item in history], dtype=np.int32)
    return Sequences(offsets, items, np.zeros(len(items), dtype=np.int64))


STRONG = {
    "norm": "post", "feed_forward": 4, "activation": "gelu", "low_pass": 0.7, "samples": "prefixes",
    "label_smoothing": 0.1, "schedule": "linear",
}  # fmt: skip


def routes(users: int = 60) -> tuple[Sequences, Sequences, np.ndarray]:
    """Users who walk round the catalogue in steps of one: what comes next follows from what came last."""
    rng = np.random.default_rng(0)
    starts, lengths = rng.integers(0, ITEMS, users), rng.integers(3, 13, users)
    full = [((start + np.arange(length)) % ITEMS + 1).tolist() for start, length in zip(starts, lengths, strict=True)]
    return sequences([h[:-1] for h in full]), sequences([h[:-1] for h in full]), np.array([h[-1] for h in full])


def train(resume: Path, **changes: object) -> tuple[SASRec, list[dict]]:
    return sasrec.train(*routes(), ITEMS, settings(**changes), resume)


def same(left: SASRec, right: SASRec) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


def scores(curve: list[dict]) -> list[tuple]:
    """The curve without its times."""
    return [(row["epoch"], row["loss"], row["valid/full/ndcg_10"]) for row in curve]


@pytest.mark.parametrize("samples", ["sequences", "prefixes"])
@pytest.mark.parametrize("loss", ["bce", "ce", "sampled_softmax", "gbce"])
def test_every_loss_learns_what_comes_next(tmp_path, loss, samples):
    size = {"sequences": 8, "prefixes": 32}[samples]
    model, curve = train(
        tmp_path, loss=loss, samples=samples, epochs=25, dropout=0.0, batch_size=size, lr=0.02, label_smoothing=0.05
    )
    best = max(row["valid/full/ndcg_10"] for row in curve)
    assert best > 0.7  # at random, ten of about 23 items: below 0.25
    assert curve[-1]["loss"] < curve[0]["loss"]
    _, histories, targets = routes()
    assert not model.training and sasrec.validate(model, histories, targets) == best


def test_validation_is_ndcg_over_all_items_outside_the_history():
    model = SASRec(ITEMS, 8, 1, 1, 8, 0.0).initialise(torch.Generator().manual_seed(0)).eval()
    _, histories, targets = routes()
    values = []
    for user, target in enumerate(targets, start=1):
        history = histories.of(user)[0].tolist()
        with torch.no_grad():
            score = (model.item_vectors() @ model.last(torch.tensor([history[-8:]]))[0]).tolist()
        rank = sum(score[i] >= score[target] for i in range(1, ITEMS + 1) if i not in history and i != target)
        values.append(1 / np.log2(rank + 2) if rank < 10 else 0.0)
    assert sasrec.validate(model, histories, targets) == pytest.approx(np.mean(values))


@pytest.mark.parametrize("loss", ["bce", "ce", "sampled_softmax", "gbce"])
def test_each_real_position_has_the_next_item_as_its_target(monkeypatch, loss):
    seen: list[tuple[Tensor, Tensor]] = []
    name = "cross_entropy" if loss == "ce" else loss

    def spy(users: Tensor, targets: Tensor, *rest: object) -> Tensor:
        seen.append((users, targets))
        return original(users, targets, *rest)

    original = getattr(losses, name)
    monkeypatch.setattr(losses, name, spy)
    model = SASRec(ITEMS, 8, 1, 1, 8, 0.0).initialise(torch.Generator().manual_seed(0)).eval()
    rows = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    value, count = sasrec.next_item_loss(model, rows, settings(loss=loss), torch.Generator().manual_seed(0))
    ((users, targets),) = seen
    assert targets.tolist() == [6, 7, 2, 3, 4, 5] and count == 6 and torch.isfinite(value)
    alone = torch.cat([model(torch.tensor([[5, 6]]))[0], model(torch.tensor([[1, 2, 3, 4]]))[0]])
    torch.testing.assert_close(users, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", ["bce", "ce", "sampled_softmax", "gbce"])
def test_of_a_prefix_the_last_item_alone_is_a_target(monkeypatch, loss):
    seen: list[tuple[Tensor, Tensor]] = []
    name = "cross_entropy" if loss == "ce" else loss

    def spy(users: Tensor, targets: Tensor, *rest: object) -> Tensor:
        seen.append((users, targets))
        return original(users, targets, *rest)

    original = getattr(losses, name)
    monkeypatch.setattr(losses, name, spy)
    chosen = settings(**STRONG | {"loss": loss, "dropout": 0.0})
    model = sasrec.build(ITEMS, chosen).eval()
    rows = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    value, count = sasrec.next_item_loss(model, rows, chosen, torch.Generator().manual_seed(0))
    ((users, targets),) = seen
    assert targets.tolist() == [7, 5] and count == 2 and torch.isfinite(value)
    alone = torch.cat([model(torch.tensor([[5, 6]]))[:, -1], model(torch.tensor([[1, 2, 3, 4]]))[:, -1]])
    torch.testing.assert_close(users, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("samples", ["sequences", "prefixes"])
@given(histories=st.lists(st.lists(st.integers(1, 9), max_size=7), min_size=1, max_size=6))
@hypothesis.settings(max_examples=40, deadline=None)
def test_samples_are_what_a_loop_over_the_sequences_cuts(samples, histories):
    actual = sasrec.Samples.of(sequences(histories), settings(samples=samples, max_length=3))
    expected = []
    for history in histories:
        ends = range(2, len(history) + 1) if samples == "prefixes" else [len(history)] * (len(history) > 1)
        expected += [history[max(0, end - 4) : end] for end in ends]
    assert actual.lengths.tolist() == [len(sample) for sample in expected]
    for chosen in (np.arange(len(expected)), np.arange(len(expected))[::-2]):
        if len(chosen):
            rows, longest = actual.rows(chosen), max(len(expected[number]) for number in chosen)
            assert rows.dtype == np.int64
            plain = [[0] * (longest - len(expected[number])) + expected[number] for number in chosen]
            assert rows.tolist() == plain


@pytest.mark.parametrize("samples", ["sequences", "prefixes"])
def test_an_epochs_loss_is_the_mean_over_all_targets(samples):
    histories = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [5, 6], [7, 8, 9]]
    chosen = settings(batch_size=2, dropout=0.0, samples=samples)
    model = sasrec.build(ITEMS, chosen)
    nothing = torch.optim.SGD(model.parameters(), lr=0.0)
    actual = sasrec.train_epoch(model, nothing, sasrec.Samples.of(sequences(histories), chosen), chosen, 1)
    terms = []
    for history in histories:
        for end in range(2 if samples == "prefixes" else len(history), len(history) + 1):
            *inputs, _ = recent = history[:end][-9:]
            score = (model(torch.tensor([inputs]))[0] @ model.item_vectors()[1:].T).detach()
            each = [float(row.logsumexp(0) - row[item - 1]) for row, item in zip(score, recent[1:], strict=True)]
            terms += each[-1:] if samples == "prefixes" else each
    assert len(terms) == (11 + 1 + 2 if samples == "prefixes" else 8 + 1 + 2)
    assert actual == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize(("schedule", "rates"), [("constant", [0.01] * 4), ("linear", [0.01, 0.0075, 0.005, 0.0025])])
def test_the_learning_rate_of_each_epoch(schedule, rates):
    chosen = settings(schedule=schedule)
    model = sasrec.build(ITEMS, chosen)
    optimizer = torch.optim.Adam(model.parameters(), lr=chosen.lr)
    for epoch, rate in enumerate(rates, start=1):
        sasrec.train_epoch(model, optimizer, sasrec.Samples.of(routes()[0], chosen), chosen, epoch)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)


@pytest.mark.parametrize("count", [1, 5, 100, 700])
def test_batches_hold_every_sample_once_and_like_lengths_together(count):
    lengths = np.random.default_rng(0).integers(2, 50, count)
    cut = sasrec.batches(lengths, 4, np.random.default_rng(1))
    assert sorted(np.concatenate(cut).tolist()) == list(range(count))
    assert all(len(batch) <= 4 for batch in cut) and sum(len(batch) < 4 for batch in cut) <= 1
    if count == 700:
        padded = sum(len(batch) * lengths[batch].max() for batch in cut)
        assert padded < 1.1 * lengths.sum()
        assert any(lengths[a].max() > lengths[b].max() for a, b in itertools.pairwise(cut))  # in random order
    again = sasrec.batches(lengths, 4, np.random.default_rng(1))
    assert all(np.array_equal(a, b) for a, b in zip(cut, again, strict=True))


def test_two_runs_of_one_seed_are_equal_whatever_the_global_generators_hold(tmp_path):
    torch.manual_seed(1)
    np.random.seed(1)
    first, curve = train(tmp_path / "a")
    state = torch.get_rng_state()
    second, again = train(tmp_path / "b")
    assert same(first, second) and scores(curve) == scores(again)
    assert torch.equal(torch.get_rng_state(), state)
    other, _ = train(tmp_path / "c", seed=4)
    assert not same(first, other)


@pytest.mark.parametrize(
    "changes",
    [{"loss": "ce"}, {"loss": "bce"}, {"loss": "sampled_softmax"}, STRONG | {"schedule": "constant"}],
    ids=["ce", "bce", "sampled_softmax", "strong"],
)
def test_a_run_that_stops_between_epochs_goes_on_as_if_it_had_not(tmp_path, capsys, changes):
    whole, curve = train(tmp_path / "whole", **changes)
    train(tmp_path / "parts", **changes, epochs=2)
    resumed, again = train(tmp_path / "parts", **changes)
    assert "going on after epoch 2" in capsys.readouterr().out
    assert same(whole, resumed) and scores(curve) == scores(again)


def test_a_learning_rate_that_falls_goes_on_falling_after_a_stop(tmp_path, monkeypatch):
    whole, curve = train(tmp_path / "whole", **STRONG)
    validate, checks = sasrec.validate, iter([True, True, False])

    def stopped(*arguments: Any) -> float:
        if not next(checks):
            raise KeyboardInterrupt
        return validate(*arguments)

    monkeypatch.setattr(sasrec, "validate", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", **STRONG)
    monkeypatch.setattr(sasrec, "validate", validate)
    resumed, again = train(tmp_path / "parts", **STRONG)
    assert same(whole, resumed) and scores(curve) == scores(again)


def test_a_finished_run_is_only_read(tmp_path):
    first, curve = train(tmp_path)
    before = (tmp_path / "epoch.safetensors").stat().st_mtime_ns
    again, read = train(tmp_path)
    assert same(first, again) and read == curve
    assert (tmp_path / "epoch.safetensors").stat().st_mtime_ns == before


def test_a_damaged_checkpoint_starts_again_with_the_same_result(tmp_path, capsys):
    first, curve = train(tmp_path)
    path = tmp_path / "epoch.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    again, read = train(tmp_path)
    assert "is damaged" in capsys.readouterr().out
    assert same(first, again) and scores(read) == scores(curve)


def scripted(values: list[float]) -> Callable[..., float]:
    """Validation scores that follow a script."""
    remaining = iter(values)
    return lambda *_: next(remaining)


def test_early_stopping_keeps_the_best_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(sasrec, "validate", scripted([0.1, 0.3, 0.2, 0.3, 0.1]))
    stopped, curve = train(tmp_path / "stopped", epochs=50, patience=3)
    assert [row["epoch"] for row in curve] == [1, 2, 3, 4, 5]  # an equal score is no better one
    monkeypatch.setattr(sasrec, "validate", scripted([0.1, 0.3]))
    best, _ = train(tmp_path / "best", epochs=2)
    assert same(stopped, best)
    monkeypatch.setattr(sasrec, "validate", scripted([]))
    again, read = train(tmp_path / "stopped", epochs=50, patience=3)
    assert same(again, best) and read == curve


def test_the_first_epoch_counts_even_at_a_score_of_zero(tmp_path, monkeypatch):
    monkeypatch.setattr(sasrec, "validate", scripted([0.0, 0.0]))
    model, curve = train(tmp_path / "a", epochs=20, patience=1)
    assert len(curve) == 2
    monkeypatch.setattr(sasrec, "validate", scripted([0.0]))
    assert same(model, train(tmp_path / "b", epochs=1)[0])


def test_progress_is_printed_for_each_epoch(tmp_path, capsys):
    _, curve = train(tmp_path, epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].startswith(f"sasrec epoch 2/2: loss {curve[1]['loss']:.4f}, valid/full/ndcg_10")
    assert set(curve[0]) == {"epoch", "loss", "valid/full/ndcg_10"}


def test_nothing_to_learn_from_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no training sequence has two events"):
        sasrec.train(sequences([[1], [2]]), sequences([[1], [2]]), np.array([2, 1]), 2, settings(), tmp_path)


def test_users_with_a_single_event_are_left_out(tmp_path):
    _, curve = sasrec.train(
        sequences([[1], [2, 3], [3]]), sequences([[1], [2, 3], [3]]), np.array([2, 1, 1]), 3, settings(), tmp_path
    )
    assert np.isfinite([row["loss"] for row in curve]).all()


def test_a_run_that_diverges_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"sasrec\.lr"):
        train(tmp_path, lr=1e30)


def test_a_second_trainer_in_the_same_folder_waits(tmp_path):
    second = threading.Thread(target=train, args=[tmp_path])
    with checkpoint.lock(tmp_path):
        second.start()
        second.join(timeout=1)
        assert second.is_alive() and not list(tmp_path.rglob("*.safetensors"))
    second.join()
    assert list(tmp_path.rglob("*.safetensors"))


def test_a_run_that_is_killed_ends_with_the_same_weights(tmp_path):
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_next_item as test; "
        "test.train(Path(sys.argv[2]), epochs=25)"
    )
    whole, curve = train(tmp_path / "whole", epochs=25)
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "killed")]
    trainer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in trainer.stdout:  # kill it in the middle of a later epoch
        if line.startswith("sasrec epoch 5/"):
            time.sleep(0.01)
            trainer.kill()
            break
    trainer.wait()
    _, state = checkpoint.load(tmp_path / "killed" / "epoch.safetensors")
    assert 5 <= len(state["curve"]) < 25
    resumed, again = train(tmp_path / "killed", epochs=25)
    assert same(whole, resumed) and scores(curve) == scores(again)
