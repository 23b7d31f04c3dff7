import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.models.text.item_texts import MASK, PAD, SPECIAL, START, ItemTexts
from llmsrec.models.text.recformer import RecFormer
from llmsrec.training import checkpoint, recformer
from llmsrec.training.validation import Validation

ITEMS = 20


def texts() -> ItemTexts:
    """Each item's text is a word that it shares with one other item, and one that it has for itself."""
    words = [[3, SPECIAL + item // 2, SPECIAL + 10 + item] for item in range(ITEMS)]
    return ItemTexts(np.concatenate([[0], np.arange(ITEMS + 1) * 3]), np.concatenate(words), np.arange(30))


def settings(**changes: object) -> recformer.Settings:
    values = {
        "dim": 16,
        "layers": 1,
        "heads": 2,
        "feed_forward": 2,
        "dropout": 0.1,
        "attribute_tokens": 32,
        "max_items": 6,
        "max_tokens": 16,
        "temperature": 0.05,
        "mask": 0.15,
        "mask_weight": 0.1,
        "batch_size": 16,
        "lr": 0.01,
        "lr_decay": 0.95,
        "weight_decay": 0.01,
        "evaluations_per_epoch": 1,
        "validation_users": 100,
        "pretrain_epochs": 2,
        "epochs": 3,
        "patience": 5,
        "frozen_epochs": 2,
        "frozen_patience": 3,
        "batch_items": True,
        "seed": 3,
    }
    return recformer.Settings(**(values | changes))


def sequences(histories: list[list[int]]) -> Sequences:
    """Users 1.. with these items."""
    items = np.array([item for history in histories for item in history], dtype=np.int32)
    return Sequences(np.cumsum([0, 0, *map(len, histories)]), items, np.zeros(len(items), dtype=np.int64))


def routes(users: int = 40) -> tuple[Sequences, Validation]:
    """Users who walk round the catalogue in steps of one: what comes next follows from what came last."""
    rng = np.random.default_rng(0)
    starts, lengths = rng.integers(0, ITEMS, users), rng.integers(3, 9, users)
    full = [((start + np.arange(length)) % ITEMS + 1).tolist() for start, length in zip(starts, lengths, strict=True)]
    known = sequences([history[:-1] for history in full])
    return known, Validation(known, np.array([history[-1] for history in full]), known)


def train(resume: Path, **changes: object) -> tuple[RecFormer, torch.Tensor, list[dict]]:
    return recformer.train(texts(), *routes(), settings(**changes), resume)


def same(left: RecFormer, right: RecFormer) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


def trainer(known: Sequences, validation: Validation, **changes: object) -> recformer.Trainer:
    chosen = settings(dropout=0.0, **changes)
    model = recformer.build(texts(), chosen).eval()
    return recformer.Trainer(model, texts(), known, validation, chosen, Path())


@pytest.mark.parametrize("batch_items", [True, False])
def test_it_learns_what_comes_next_from_texts_alone(tmp_path, batch_items):
    model, items, curve = train(tmp_path, dropout=0.0, lr=0.02, batch_items=batch_items)
    best = max(row["valid/full/ndcg_10"] for row in curve if row["phase"] > 1)
    assert best > 0.7  # at random, ten of about 15 items: about .3
    known, validation = routes()
    users = model.vectors(texts(), known)
    assert not model.training and validation.score(users.numpy(), items.numpy()) == best
    torch.testing.assert_close(items[1:].norm(dim=1), torch.ones(ITEMS))


def test_the_phases_follow_each_other(tmp_path):
    _, _, curve = train(tmp_path)
    assert [(row["phase"], row["epoch"]) for row in curve] == [(1, 1), (1, 2), (2, 3), (2, 4), (2, 5), (3, 6), (3, 7)]
    steps = [row["step"] for row in curve]
    assert steps == [steps[0] * number for number in range(1, 8)]
    assert {"contrast", "words"} <= curve[0].keys() and "next_item" in curve[-1]


def test_the_item_vectors_of_the_second_stage_are_those_of_the_firsts_best_epoch(tmp_path):
    _, items, _ = train(tmp_path / "a")
    first, before, _ = train(tmp_path / "b", frozen_epochs=0)
    assert torch.equal(items, before) and torch.equal(before, first.item_vectors(texts()))


def test_where_the_second_stage_finds_nothing_better_the_first_ones_best_stays(tmp_path, monkeypatch):
    first, before, _ = train(tmp_path / "a", frozen_epochs=0)
    score, checks = Validation.score, iter(range(5))

    def falling(*arguments: Any) -> float:
        return score(*arguments) if next(checks, None) is not None else 0.0

    monkeypatch.setattr(Validation, "score", falling)
    model, items, curve = train(tmp_path / "b")
    assert len(curve) == 7 and same(model, first) and torch.equal(items, before)


@pytest.mark.parametrize("after", [1, 3, 6], ids=["pretrain", "finetune", "frozen"])
def test_a_run_that_stops_in_any_phase_goes_on_as_if_it_had_not(tmp_path, monkeypatch, after):
    whole, items, curve = train(tmp_path / "whole")
    score, checks = Validation.score, iter(range(after))

    def stopped(*arguments: Any) -> float:
        if next(checks, None) is None:
            raise KeyboardInterrupt
        return score(*arguments)

    monkeypatch.setattr(Validation, "score", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts")
    monkeypatch.setattr(Validation, "score", score)
    resumed, again_items, again = train(tmp_path / "parts")
    assert same(whole, resumed) and torch.equal(items, again_items) and curve == again


def test_two_runs_of_one_seed_are_equal_whatever_the_global_generators_hold(tmp_path):
    torch.manual_seed(1)
    first, _, curve = train(tmp_path / "a")
    state = torch.get_rng_state()
    second, _, again = train(tmp_path / "b")
    assert same(first, second) and curve == again and torch.equal(torch.get_rng_state(), state)
    assert not same(first, train(tmp_path / "c", seed=4)[0])


def test_every_event_but_the_first_is_a_target_after_all_that_came_before(tmp_path):
    histories = [[1, 2, 3, 4], [5], [6, 7], [8, 9, 1, 2, 3, 4, 5, 6, 7]]
    made = trainer(sequences(histories), Validation(sequences(histories), np.ones(4, dtype=np.int64), sequences([])))
    samples = [
        (made._events[start:end].tolist(), int(made._events[end]))
        for start, end in zip(made._starts, made._targets, strict=True)
    ]
    assert samples == [(history[:end][-6:], history[end]) for history in histories for end in range(1, len(history))]


def test_words_and_keys_are_hidden_and_neither_start_nor_padding():
    batch = texts().batch([np.array([1, 2, 3, 4]), np.array([5])], 6, 16)
    chosen, kinds = 0, np.zeros(3)
    for seed in range(300):
        masked, hidden = recformer.mask(batch, 0.5, texts().vocabulary, np.random.default_rng(seed))
        assert not hidden[np.isin(batch.tokens, (START, PAD))].any()
        assert np.array_equal(masked.tokens[~hidden], batch.tokens[~hidden])
        assert masked.types is batch.types and masked.items is batch.items
        chosen += hidden.sum()
        now, before = masked.tokens[hidden], batch.tokens[hidden]
        kinds += (now == MASK).sum(), ((now != MASK) & (now != before)).sum(), (now == before).sum()
        assert ((now == MASK) | (now == before) | (now >= SPECIAL)).all()
    assert chosen / (300 * (batch.tokens >= 3).sum()) == pytest.approx(0.5, abs=0.03)
    assert kinds / kinds.sum() == pytest.approx([0.8, 0.1, 0.1], abs=0.03)


def alone(model: RecFormer, history: np.ndarray) -> torch.Tensor:
    return model.start(texts().batch([history], 6, 16))[0]


def test_the_loss_of_pre_training_is_that_of_a_loop():
    model = recformer.build(texts(), settings(dropout=0.0)).eval()
    histories, targets = [np.array([1, 2]), np.array([7]), np.array([4, 9, 3])], np.array([3, 8, 3])
    batch = texts().batch(histories, 6, 16)
    losses = trainer(*routes()).pretraining(histories, targets, np.random.default_rng(5))
    users = [alone(model, history) for history in histories]
    total = 0.0
    for user, target in zip(users, targets, strict=True):
        scores = {item: (user @ alone(model, np.array([item]))).item() / 0.05 for item in (3, 8)}
        total += np.log(sum(np.exp(list(scores.values())))) - scores[target]
    masked, hidden = recformer.mask(batch, 0.15, texts().vocabulary, np.random.default_rng(5))
    logits = model.words(model(masked))
    telling = [
        F.cross_entropy(logits[row, place], torch.tensor(batch.tokens[row, place])).item()
        for row, place in np.argwhere(hidden)
    ]
    assert losses["contrast"].item() == pytest.approx(total / 3, rel=1e-4)
    assert telling and losses["words"].item() == pytest.approx(0.1 * np.mean(telling), rel=1e-4)


@pytest.mark.parametrize("batch_items", [True, False])
def test_gradients_reach_the_items_of_the_batch_where_that_is_asked(batch_items):
    made = trainer(*routes(), batch_items=batch_items)
    model = made._model
    histories, targets = [np.array([1, 2]), np.array([4])], np.array([17, 9])
    items = made.items()
    losses = made.next_item(histories, targets, np.random.default_rng(0))
    users = torch.stack([alone(model, history) for history in histories])
    scores = users @ items[1:].T / 0.05
    expected = (scores.logsumexp(1) - scores[[0, 1], targets - 1]).mean().item()
    assert losses["next_item"].item() == pytest.approx(expected, rel=1e-4)
    assert losses.keys() == ({"next_item", "contrast"} if batch_items else {"next_item"})
    sum(losses.values()).backward()
    own = int(texts().tokens[3 * 16 + 2])  # a word of item 17 alone
    assert bool(model.word.weight.grad[own].any()) == batch_items


def test_no_gradient_reaches_items_once_they_stand_still():
    made = trainer(*routes())
    made.freeze()
    losses = made.next_item([np.array([1, 2])], np.array([17]), np.random.default_rng(0))
    assert losses.keys() == {"next_item"}


def test_nothing_to_learn_from_is_an_error(tmp_path):
    known = sequences([[1], [2]])
    with pytest.raises(DataError, match="no training sequence has two events"):
        recformer.train(texts(), known, Validation(known, np.array([2, 1]), known), settings(), tmp_path)


def test_a_second_trainer_in_the_same_folder_waits(tmp_path):
    second = threading.Thread(target=train, args=[tmp_path])
    with checkpoint.lock(tmp_path / "pretrain"):
        second.start()
        second.join(timeout=1)
        assert second.is_alive() and not list(tmp_path.rglob("*.safetensors"))
    second.join()
    assert list(tmp_path.rglob("*.safetensors"))


def test_a_run_that_is_killed_ends_with_the_same_weights(tmp_path):
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_recformer as test; "
        "test.train(Path(sys.argv[2]), epochs=8, patience=8)"
    )
    whole, items, curve = train(tmp_path / "whole", epochs=8, patience=8)
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch  3.00 of 8"):
            time.sleep(0.01)
            process.kill()
            break
    process.wait()
    assert (tmp_path / "killed/finetune").exists() and not (tmp_path / "killed/frozen").exists()
    resumed, again_items, again = train(tmp_path / "killed", epochs=8, patience=8)
    assert same(whole, resumed) and torch.equal(items, again_items) and curve == again
