"""Fidelity `heads`: what the language model says of users and items is computed once, then only MLPs are trained.

With the prompts' inputs as a checkpoint has them (its f_I and tokens), h_u and h_i do not depend on f_user, f_item or
f_CF-user. So a trial trains these three on remembered vectors, by the same loop and losses as the pipeline's.
"""

import fcntl
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from llmsrec.data.sequences import Sequences
from llmsrec.models.cf.teacher import Teacher
from llmsrec.models.llm.heads import output_heads, standardise
from llmsrec.models.llm.retrieval import LLMSRec, reported, token_batches
from llmsrec.params import Model, Train
from llmsrec.prompts.retrieval import Prompts
from llmsrec.training import checkpoint
from llmsrec.training.batches import Samples
from llmsrec.training.retrieval import Validation, hidden_targets, training_samples, vector_losses


@dataclass(frozen=True)
class Outputs:
    """What a checkpoint's language model and teacher say, for all that heads are trained and checked on.

    Attributes:
        places: `[T]` where the training targets lie in the training sequences, in order.
        hidden: `[T, d_llm]` h_u of the history before each.
        seen: `[T, d]` O_u of the same.
        items: `[I + 1, d_llm]` h_i; row 0 is zero.
        users: `[n]` the validation users.
        valid: `[n, d_llm]` their h_u.
    """

    places: Tensor
    hidden: Tensor
    seen: Tensor
    items: Tensor
    users: Tensor
    valid: Tensor


@torch.no_grad()
def compute(model: LLMSRec, sequences: Sequences, validation: Validation, train: Train) -> Outputs:
    """Run the checkpoint `model` over the training targets, the validation users and the catalogue."""
    model.eval()
    samples, lengths = training_samples(model, sequences, train)
    places, hidden, seen = [], [], []
    for rows in reported(lengths, list(token_batches(lengths, model.batch_tokens())), "training samples"):
        of_users, of_teacher = hidden_targets(model, samples, rows)
        hidden.append(of_users)
        seen.append(of_teacher)
        places.append(torch.from_numpy(samples.targets(rows)[1]))
    order = torch.argsort(torch.cat(places))
    return Outputs(
        torch.cat(places)[order],
        torch.cat(hidden).float().cpu()[order],
        torch.cat(seen).cpu()[order],
        _items(model),
        torch.tensor(validation.users, dtype=torch.int64),
        _users(model, validation),
    )


def _users(model: LLMSRec, validation: Validation) -> Tensor:
    """`[n, d_llm]` h_u of the validation users."""
    histories = [validation.histories.of(user) for user in validation.users.tolist()]
    items, times = [items for items, _ in histories], [times for _, times in histories]
    teacher = model.teacher.user_vectors(validation.histories)[torch.tensor(validation.users, dtype=torch.int64)]
    hidden: dict[int, Tensor] = {}
    lengths = model.prompts.user_lengths(items)
    for rows in reported(lengths, list(token_batches(lengths, model.batch_tokens())), "validation users"):
        found = model.hidden_users([items[r] for r in rows], [times[r] for r in rows], teacher[torch.from_numpy(rows)])
        hidden |= zip(rows.tolist(), found.float().cpu(), strict=True)
    return torch.stack([hidden[row] for row in range(len(hidden))])


def _items(model: LLMSRec) -> Tensor:
    """`[I + 1, d_llm]` h_i of all items; row 0 is zero."""
    _, lengths = model.prompts.item_prefixes(np.arange(1, len(model.teacher.item_vectors())))
    hidden: dict[int, Tensor] = {}
    for rows in reported(lengths, list(token_batches(lengths, model.batch_tokens())), "items"):
        found = model.hidden_items(torch.from_numpy(rows + 1).to(model.device)).float().cpu()
        hidden |= zip((rows + 1).tolist(), found, strict=True)
    return torch.stack([torch.zeros_like(hidden[1]), *(hidden[item] for item in range(1, len(hidden) + 1))])


def remember(
    folder: Path,
    key: str,
    checkpointed: Callable[[], LLMSRec],
    sequences: Sequences,
    validation: Validation,
    train: Train,
) -> Outputs:
    """What `compute` returns; from `folder`, where it was computed before under the same `key`.

    One process computes, and others that want the same wait for it. A damaged file is computed again.

    Args:
        key: a digest of everything that decides the outputs.
        checkpointed: loads the checkpoint; called only if something has to be computed.

    Raises:
        DataError: the file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key[:32]}.safetensors"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        saved = checkpoint.load(path, state={"key": key})
        if (
            saved is not None
            and saved[0].keys() == {field.name for field in fields(Outputs)}
            and saved[1]["key"] == key
        ):
            return Outputs(**saved[0])
        outputs = compute(checkpointed(), sequences, validation, train)
        checkpoint.save(path, vars(outputs), {"key": key})
        return outputs


class RememberedHeads(nn.Module):
    """New f_user, f_item and f_CF-user over remembered outputs; trains and validates as an `LLMSRec` does.

    Args:
        prompts: the checkpoint's; their lengths decide which samples share a batch.
        teacher: the checkpoint's.
        settings: params.yaml's `model` section.
        seed: for the first values, which are those of an `LLMSRec` of the same seed at the start of its training.
    """

    def __init__(self, outputs: Outputs, prompts: Prompts, teacher: Teacher, settings: Model, seed: int) -> None:
        super().__init__()
        self.outputs, self.prompts, self.teacher = outputs, prompts, teacher.requires_grad_(False).eval()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.f_user, self.f_item, self.f_cf_user = output_heads(
                outputs.hidden.shape[1], outputs.seen.shape[1], settings
            )
        standardise(self.f_user, outputs.hidden)
        standardise(self.f_item, outputs.items[1:])
        self.device = torch.device("cpu")

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name to parameter of the three heads."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def hidden_items(self, item_ids: Tensor) -> Tensor:
        """h_i of `[n]` items: `[n, d_llm]`."""
        return self.outputs.items[item_ids]

    def item_groups(self, item_ids: np.ndarray) -> np.ndarray:
        return item_ids

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """f_item(h_i) of all items: `[I + 1, d']`; row 0 is zero."""
        self.eval()
        vectors = self.f_item(self.outputs.items)
        vectors[0] = 0
        return vectors

    @torch.no_grad()
    def user_vectors(self, sequences: Sequences, users: np.ndarray) -> Tensor:
        """f_user(h_u) `[n, d']` of the validation users, the only ones that are remembered."""
        if not np.array_equal(users, self.outputs.users.numpy()):
            raise ValueError("only the validation users' outputs are remembered")
        self.eval()
        return self.f_user(self.outputs.valid)


def losses_of(
    model: RememberedHeads, samples: Samples, rows: np.ndarray, settings: Model, rng: np.random.Generator
) -> dict[str, Tensor]:
    """The weighted terms of Eq. 4 for one batch of samples; `training.llm_srec.step_losses` on remembered outputs."""
    users, places = samples.targets(rows)
    at = torch.searchsorted(model.outputs.places, torch.from_numpy(places))
    user, cf_user = model.f_user(model.outputs.hidden[at]), model.f_cf_user(model.outputs.seen[at])
    return vector_losses(model, user, cf_user, samples, users, places, settings, rng)
