"""Training A-LLMRec's stage 1: what a step minimises and what a check evaluates. The loop itself is `loop.fit`."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llmsrec.data.held_out import HeldOut
from llmsrec.data.sequences import Sequences
from llmsrec.models.cf.teacher import Teacher
from llmsrec.models.llm.allmrec import Autoencoders
from llmsrec.models.llm.settings import Alignment
from llmsrec.models.losses import alignment
from llmsrec.params import Train
from llmsrec.training.batches import Samples
from llmsrec.training.loop import Curve, fit

SCORE = "valid/score"  # exp(-losses) of the validation users: the greater, the better


def train(
    model: Autoencoders,
    teacher: Teacher,
    texts: Tensor,
    sequences: Sequences,
    valid: HeldOut,
    weights: Alignment,
    train: Train,
    resume: Path,
) -> Curve:
    """Train both autoencoders in place; they end as they were at the best check.

    A sample is a target of the training sequences, with an item that its user had no event with; new ones are drawn in
    each step, those of the validation users once.

    Args:
        texts: `[I + 1, w]` the items' text vectors.
        valid: the validation split; its users and targets decide which check is the best.
        train: batch_size, lr, epochs and so on; `targets` are the last of each user, or all.
    """
    teacher = teacher.requires_grad_(False).eval()
    items = teacher.item_vectors().detach()
    samples = Samples.of(sequences, len(items) - 1, train.targets, teacher.max_length)
    users, places = samples.targets(np.arange(len(samples.users)))
    held = np.random.default_rng([train.seed, 0]).integers(1, len(items), len(valid.users))
    at = held == valid.targets
    held[at] = held[at] % (len(items) - 1) + 1  # the next item
    with torch.no_grad():
        of_valid = teacher.user_vectors(valid.histories)[1:]

    def losses_at(rows: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        before = samples.before(users[rows], places[rows], teacher.max_length)
        with torch.no_grad():
            seen = teacher.last(torch.from_numpy(before))
        targets = sequences.items[places[rows]].astype(np.int64)
        negatives = samples.negatives(users[rows], 1, rng)[:, 0]
        return step_losses(model, seen, items, texts, targets, negatives, weights)

    @torch.no_grad()
    def scores() -> dict[str, float]:
        parts = step_losses(model, of_valid, items, texts, valid.targets.astype(np.int64), held, weights)
        named = {f"valid/{name}": float(value) for name, value in parts.items()}
        return named | {SCORE: float(np.exp(-sum(named.values())))}

    lengths = np.ones(len(users), dtype=np.int64)
    parameters = dict(model.named_parameters())
    return fit(parameters, lengths, losses_at, scores, train, SCORE, len(valid.users), resume)


def step_losses(
    model: Autoencoders,
    users: Tensor,
    items: Tensor,
    texts: Tensor,
    targets: np.ndarray,
    negatives: np.ndarray,
    weights: Alignment,
) -> dict[str, Tensor]:
    """The weighted terms of one batch.

    Args:
        users: `[B, d]` the teacher's vectors of the histories before the targets.
        items, texts: `[I + 1, d]` and `[I + 1, w]`.
        targets, negatives: `[B]` item ids.
    """
    pair = torch.from_numpy(targets), torch.from_numpy(negatives)
    of_items, of_texts = (items[pair[0]], items[pair[1]]), (texts[pair[0]], texts[pair[1]])
    codes = model.item_codes(of_items[0]), model.item_codes(of_items[1])
    text_codes = model.text_codes(of_texts[0]), model.text_codes(of_texts[1])
    decoded = model.item_decoder(codes[0]), model.item_decoder(codes[1])
    text_decoded = model.text_decoder(text_codes[0]), model.text_decoder(text_codes[1])
    return {
        "matching": weights.matching * alignment.matching(codes, text_codes),
        "item_reconstruction": weights.item_reconstruction * alignment.reconstruction(decoded, of_items),
        "text_reconstruction": weights.text_reconstruction * alignment.reconstruction(text_decoded, of_texts),
        "recommendation": weights.recommendation * alignment.recommendation(users, decoded),
    }
