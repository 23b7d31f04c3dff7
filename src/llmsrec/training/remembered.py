"""Heads on remembered outputs: what the language model says of users and items is computed once, then only MLPs learn.

With the prompts' inputs as they are (f_I and the tokens), h_u and h_i do not depend on f_user, f_item or f_CF-user. So
these three are trained on remembered vectors, by the same loop and losses as the whole model: where a training begins
with them (`train.start: heads`), or in a study's trials (`tune.fidelity: heads`).
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from llmsrec import distributed
from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.models.cf.teacher import Teacher
from llmsrec.models.llm.heads import output_heads, standardise
from llmsrec.models.llm.retrieval import LLMSRec, reported, token_batches
from llmsrec.params import Model, Train
from llmsrec.prompts.retrieval import Prompts
from llmsrec.training import checkpoint
from llmsrec.training.batches import Samples
from llmsrec.training.retrieval import Validation, hidden_targets, step_losses, training_samples


@dataclass(frozen=True)
class Outputs:
    """What a model's language model and teacher say, for all that heads are trained and checked on; on the CPU.

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
    """Run `model` over the training targets, the validation users and the catalogue; processes share the work."""
    model.eval()
    samples, lengths = training_samples(model, sequences, train)
    places = np.sort(samples.targets(np.arange(len(samples.users)))[1])
    hidden = torch.zeros(len(places), model.width)
    seen = torch.zeros(len(places), model.teacher.item_vectors().shape[1])
    own = list(token_batches(lengths, model.batch_tokens()))[distributed.rank() :: distributed.size()]
    for rows in reported(lengths, own, "training samples"):
        at = torch.from_numpy(np.searchsorted(places, samples.targets(rows)[1]))
        of_users, of_teacher = hidden_targets(model, samples, rows)
        hidden[at], seen[at] = of_users.float().cpu(), of_teacher.cpu()
    return Outputs(
        torch.from_numpy(places),
        distributed.add_up(hidden),
        distributed.add_up(seen),
        model.hidden_catalogue(),
        torch.tensor(validation.users, dtype=torch.int64),
        model.hidden_histories(validation.histories, validation.users),
    )


def remember(
    path: Path,
    key: str,
    model: Callable[[], LLMSRec],
    sequences: Sequences,
    validation: Validation,
    train: Train,
) -> Outputs:
    """What `compute` returns; read from `path`, if it was computed there before under the same `key`.

    A damaged file, or one of another key, is computed again, and a printed line says so.

    Args:
        key: a digest of everything that decides the outputs.
        model: loads the model; called only if something has to be computed.

    Raises:
        DataError: the file cannot be written. That it fits on the disk is seen before anything is computed.
    """
    saved = checkpoint.load(path, state={"key": key})
    if saved is not None and saved[0].keys() == {field.name for field in fields(Outputs)} and saved[1]["key"] == key:
        return Outputs(**saved[0])
    if saved is not None:
        print(
            f"warning: the outputs in {path} are of other data or another model; they are computed again.", flush=True
        )
    loaded = model()
    make_sure_of(path.parent, size(loaded, sequences, validation, train))
    outputs = compute(loaded, sequences, validation, train)
    checkpoint.save(path, vars(outputs), {"key": key})
    return outputs


def size(model: LLMSRec, sequences: Sequences, validation: Validation, train: Train) -> int:
    """Bytes of the outputs."""
    samples, _ = training_samples(model, sequences, train)
    targets, (items, d) = int((samples.stop - samples.first + 1).sum()), model.teacher.item_vectors().shape
    users = len(validation.users)
    return 4 * (targets * (model.width + d) + (items + users) * model.width) + 8 * (targets + users)


def make_sure_of(folder: Path, count: int) -> None:
    """Take so many bytes of the disk and give them back.

    Raises:
        DataError: there are fewer.
    """
    if not distributed.is_main():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, count)
    except OSError as error:
        raise DataError(
            f"the language model's outputs take {count / 2**30:.2f} GiB, and {folder} does not have them: "
            f"{error.strerror}. Nothing was computed; free some space, then run the same command again, or set "
            "`train.start` to scratch (`tune.fidelity` to full)."
        ) from error


class RememberedHeads(nn.Module):
    """New f_user, f_item and f_CF-user over remembered outputs; trains and validates as an `LLMSRec` does.

    Args:
        prompts: those that the outputs are of; their lengths decide which samples share a batch.
        teacher: the one that the outputs are of; the heads are on its device.
        settings: params.yaml's `model` section.
        seed: for the first values, which are those of an `LLMSRec` of the same seed at the start of its training.
    """

    def __init__(self, outputs: Outputs, prompts: Prompts, teacher: Teacher, settings: Model, seed: int) -> None:
        super().__init__()
        self.prompts, self.teacher = prompts, teacher.requires_grad_(False).eval()
        self.device = teacher.item_vectors().device
        self.outputs = Outputs(**{name: tensor.to(self.device) for name, tensor in vars(outputs).items()})
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.f_user, self.f_item, self.f_cf_user = output_heads(
                outputs.hidden.shape[1], outputs.seen.shape[1], settings
            )
        standardise(self.f_user, outputs.hidden)
        standardise(self.f_item, outputs.items[1:])
        self.to(self.device)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name to parameter of the three heads."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def hidden_items(self, item_ids: Tensor) -> Tensor:
        """h_i of `[n]` items: `[n, d_llm]`."""
        return self.outputs.items[item_ids]

    def hidden_catalogue(self) -> Tensor:
        """h_i of all items: `[I + 1, d_llm]`; row 0 is zero."""
        return self.outputs.items

    def item_groups(self, item_ids: np.ndarray) -> np.ndarray:
        return item_ids

    @torch.no_grad()
    def item_vectors(self, hidden: Tensor | None = None) -> Tensor:
        """f_item(h_i) of all items: `[I + 1, d']` on the CPU; row 0 is zero."""
        self.eval()
        vectors = self.f_item(self.outputs.items if hidden is None else hidden)
        vectors[0] = 0
        return vectors.cpu()

    @torch.no_grad()
    def user_vectors(self, sequences: Sequences, users: np.ndarray) -> Tensor:
        """f_user(h_u) `[n, d']` of the validation users, the only ones that are remembered; on the CPU."""
        if not np.array_equal(users, self.outputs.users.cpu().numpy()):
            raise ValueError("only the validation users' outputs are remembered")
        self.eval()
        return self.f_user(self.outputs.valid).cpu()


def _user_vectors(model: RememberedHeads, samples: Samples, rows: np.ndarray) -> Tensor:
    places = torch.from_numpy(samples.targets(rows)[1]).to(model.device)
    at = torch.searchsorted(model.outputs.places, places)
    return torch.cat([model.f_user(model.outputs.hidden[at]), model.f_cf_user(model.outputs.seen[at])], dim=1)


# `training.retrieval.step_losses` on remembered outputs
losses_of = partial(step_losses, vectors_of=_user_vectors)
