"""Training RECFORMER: its own pre-training, then two-stage fine-tuning (Li et al., 2023, Sec. 2.3 and Algorithm 1).

    pretrain   hidden words are told (MLM), and the next item among those of the batch (item-item contrast)
    finetune   the next item among all, whose vectors are computed anew at each check and stand still in between
    frozen     from the best of that, the same with vectors that stand still for good

All of it sees training sequences and the catalogue's text alone. Every event but a user's first is a target.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from llmsrec import distributed, params
from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.models.losses import next_item
from llmsrec.models.text.item_texts import KEYS, MASK, SPECIAL, Batch, ItemTexts
from llmsrec.models.text.recformer import RecFormer
from llmsrec.training import loop
from llmsrec.training.loop import Curve
from llmsrec.training.validation import METRIC, Validation

HIDDEN, REPLACED = 0.8, 0.9  # of the words to tell, the first share becomes `MASK`, up to the second any word (BERT)
SHAPE = {"dim", "layers", "heads", "feed_forward", "dropout", "max_items", "max_tokens"}

Loss = Callable[[list[np.ndarray], np.ndarray, np.random.Generator], dict[str, Tensor]]  # of histories, targets


class Settings(params.Section):
    """`systems/recformer.yaml`; what each value is stands there."""

    dim: int = Field(ge=1)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    feed_forward: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    attribute_tokens: int = Field(ge=1)
    max_items: int = Field(ge=1)
    max_tokens: int = Field(ge=2)
    temperature: float = Field(gt=0)
    mask: float = Field(gt=0, lt=1)
    mask_weight: float = Field(ge=0)
    batch_items: bool
    batch_size: int = Field(ge=2)
    lr: float = Field(gt=0)
    lr_decay: float = Field(gt=0, le=1)
    weight_decay: float = Field(ge=0)
    evaluations_per_epoch: int = Field(ge=1)
    validation_users: int = Field(ge=1)
    pretrain_epochs: int = Field(ge=0)
    epochs: int = Field(ge=1)
    patience: int = Field(ge=1)
    frozen_epochs: int = Field(ge=0)
    frozen_patience: int = Field(ge=1)
    seed: int = params.Seed


def train(
    texts: ItemTexts,
    sequences: Sequences,
    validation: Validation,
    settings: Settings,
    resume: Path,
    device: str = "cpu",
) -> tuple[RecFormer, Tensor, Curve]:
    """Pre-train, then fine-tune in two stages.

    Returns:
        the encoder of the best check, the item vectors `[I + 1, d]` that its users' are compared with, and a row for
        each check: its `phase` counts from 1 (pretrain), its `step` and `epoch` go on from phase to phase.

    Raises:
        DataError: no sequence has two events, another process trains in `resume`, a checkpoint cannot be written, the
            training diverges.
    """
    with torch.random.fork_rng():
        model = build(texts, settings).to(device)
        trainer = Trainer(model, texts, sequences, validation, settings, resume)
        curve = trainer.run("pretrain", trainer.pretraining, settings.pretrain_epochs)
        tuned = trainer.run("finetune", trainer.next_item, settings.epochs, settings.patience)
        trainer.freeze()
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        frozen = trainer.run("frozen", trainer.next_item, settings.frozen_epochs, settings.frozen_patience)
    if best(frozen) <= best(tuned):
        model.load_state_dict(weights)
    return model.eval(), trainer.items(), one_curve(curve, tuned, frozen)


def build(texts: ItemTexts, settings: Settings) -> RecFormer:
    """The untrained model: `settings` gives its shape and the seed of its first values."""
    model = RecFormer(texts.vocabulary, **settings.model_dump(include=SHAPE))
    return model.initialise(torch.Generator().manual_seed(settings.seed))


def best(curve: Curve) -> float:
    """The highest validation score of a phase; below all where it has none."""
    return max((row[METRIC] for row in curve), default=-1.0)


def one_curve(*phases: Curve) -> Curve:
    """The rows of phases that follow each other, with numbers that go on."""
    numbered = ([{**row, "phase": number} for row in phase] for number, phase in enumerate(phases, start=1))
    return loop.one_after_the_other(*numbered)


class Trainer:
    """The phases of one training."""

    def __init__(
        self,
        model: RecFormer,
        texts: ItemTexts,
        sequences: Sequences,
        validation: Validation,
        settings: Settings,
        resume: Path,
    ) -> None:
        self._model, self._texts, self._settings, self._resume = model, texts, settings, resume
        self._validation = validation
        self._device = model.word.weight.device
        place = sequences.places()
        self._events, self._targets = sequences.items, np.flatnonzero(place > 0)
        self._starts = self._targets - np.minimum(place[self._targets], settings.max_items)
        if not len(self._targets):
            raise DataError(
                "no training sequence has two events, so there is no next item to learn; lower `data.core`."
            )
        self._items: Tensor | None = None
        self._frozen = False

    def run(self, phase: str, loss: Loss, epochs: int, patience: int | None = None) -> Curve:
        """Train the model with one of the losses below, and leave it as it was at the best check.

        Args:
            phase: names the rows and the folder of the state to go on from.
            patience: checks without a better score after which it ends; None for no such end.
        """
        if epochs == 0:
            return []
        settings, model = self._settings, self._model
        lengths = self._texts.lengths(self._events, self._starts, self._targets, settings.max_tokens)
        train = loop.plan(
            batch_size=settings.batch_size,
            lr=settings.lr,
            lr_decay=settings.lr_decay,
            weight_decay=settings.weight_decay,
            epochs=epochs,
            evaluations_per_epoch=settings.evaluations_per_epoch,
            patience=patience or epochs * settings.evaluations_per_epoch,
            seed=settings.seed,
        )

        def losses_at(rows: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
            # Dropout knows no other generator than the global one.
            torch.manual_seed(int(rng.integers(2**63)) + distributed.rank())
            ends = self._targets[rows]
            histories = [self._events[start:end] for start, end in zip(self._starts[rows], ends, strict=True)]
            return loss(histories, self._events[ends].astype(np.int64), rng)

        def scores() -> dict[str, float]:
            self._forget()
            users = model.vectors(self._texts, self._validation.histories)
            return {METRIC: self._validation.score(users.numpy(), self.items().numpy())}

        print(f"recformer: {phase}", flush=True)
        model.train()
        users = len(self._validation.targets)
        trained = dict(model.named_parameters())
        curve = loop.fit(trained, lengths, losses_at, scores, train, METRIC, users, self._resume / phase)
        model.eval()
        self._forget()
        return curve

    def freeze(self) -> None:
        """Let the items' vectors be those of the model as it is now, whatever it becomes."""
        self._items, self._frozen = self._model.item_vectors(self._texts), True

    def items(self) -> Tensor:
        """`[I + 1, d]` the items' vectors on the CPU: of the model at the last check, or before the first."""
        if self._items is None:
            self._items = self._model.item_vectors(self._texts)
        return self._items

    def pretraining(
        self, histories: list[np.ndarray], targets: np.ndarray, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """Item-item contrast within the batch, and hidden words (RECFORMER, Eq. 6 to 8)."""
        losses = {"contrast": self._contrast(self._vectors(histories), targets)}
        if self._settings.mask_weight:
            losses["words"] = self._settings.mask_weight * self._words(self._lay_out(histories), rng)
        return losses

    def next_item(self, histories: list[np.ndarray], targets: np.ndarray, _: np.random.Generator) -> dict[str, Tensor]:
        """Softmax cross-entropy over all items, whose vectors stand still (RECFORMER, Eq. 9).

        With `batch_items` the contrast of pre-training goes on beside it until they stand still for good, so that
        items learn, too.
        """
        users = self._vectors(histories)
        aims, items = torch.from_numpy(targets).to(self._device), self.items().to(self._device)
        losses = {"next_item": next_item.cross_entropy(users / self._settings.temperature, aims, items)}
        if self._settings.batch_items and not self._frozen:
            losses["contrast"] = self._contrast(users, targets)
        return losses

    def _contrast(self, users: Tensor, targets: np.ndarray) -> Tensor:
        """Cross-entropy of each user's target among the batch's different targets."""
        distinct, own = np.unique(targets, return_inverse=True)
        scores = users @ self._vectors(list(distinct[:, None])).T / self._settings.temperature
        return F.cross_entropy(scores, torch.from_numpy(own).to(self._device))

    def _words(self, batch: Batch, rng: np.random.Generator) -> Tensor:
        """Mean cross-entropy of the hidden words of a batch."""
        masked, hidden = mask(batch, self._settings.mask, self._texts.vocabulary, rng)

        def row_losses(rows: np.ndarray) -> Tensor:
            """`[len(rows)]` summed over each row's words."""
            places = hidden[rows]
            logits = self._model.words(self._model(masked.rows(rows))[torch.from_numpy(places).to(self._device)])
            words = torch.from_numpy(batch.tokens[rows][places]).to(self._device)
            owner = torch.from_numpy(np.nonzero(places)[0]).to(self._device)
            each = F.cross_entropy(logits, words, reduction="none")
            return torch.zeros(len(rows), device=self._device).index_add(0, owner, each)

        return distributed.spread_rows(row_losses, np.arange(len(hidden))).sum() / max(1, int(hidden.sum()))

    def _vectors(self, histories: list[np.ndarray]) -> Tensor:
        """`[n, d]` the vectors of histories, shared by the processes."""

        def vectors(rows: np.ndarray) -> Tensor:
            return self._model.start(self._lay_out([histories[row] for row in rows]))

        return distributed.spread_rows(vectors, np.arange(len(histories)))

    def _forget(self) -> None:
        if not self._frozen:
            self._items = None

    def _lay_out(self, histories: list[np.ndarray]) -> Batch:
        return self._texts.batch(histories, self._settings.max_items, self._settings.max_tokens)


def mask(batch: Batch, share: float, vocabulary: int, rng: np.random.Generator) -> tuple[Batch, np.ndarray]:
    """The batch with a share of its words to predict, and `[B, L]` where these are (BERT, Sec. 3.1).

    Of these, 80 % become `MASK`, 10 % any word, 10 % stay. `<s>` and padding are never predicted.
    """
    targets = (rng.random(batch.tokens.shape) < share) & (batch.tokens >= KEYS)
    kind = rng.random(batch.tokens.shape)
    others = rng.integers(SPECIAL, vocabulary, batch.tokens.shape)
    tokens = np.where(targets & (kind < HIDDEN), MASK, batch.tokens)
    tokens = np.where(targets & (kind >= HIDDEN) & (kind < REPLACED), others, tokens)
    return replace(batch, tokens=tokens), targets
