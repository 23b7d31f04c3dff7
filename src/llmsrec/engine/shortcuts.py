"""Which of the cheaper passes through a language model are taken: those that are right on the model at hand.

- prompts of different lengths in one batch, with padding behind the shorter ones;
- all histories of a user in one pass over a shared trunk (`Prompts.positions`);
- item prompts from their embedding on (`prefixes`);
- Llama's layers run to the read-outs alone (`decoder`).

Each is measured when a model is built (`yardstick`): attention windows, ALiBi, recurrent layers and so on differ in
what they stand. Where vectors differ, or the model fails, that pass is left out and a line says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from llmsrec.engine.decoder import Decoder
from llmsrec.engine.prefix_store import Budget
from llmsrec.engine.prefixes import ItemPrefixes
from llmsrec.engine.readout import ItemInputs, read_out
from llmsrec.engine.yardstick import Yardstick, busy_adapters
from llmsrec.prompts.retrieval import Prompts

LAYERS = "all positions of all layers are computed:"


@dataclass(frozen=True)
class Shortcuts:
    """What `choose` found to be right.

    Attributes:
        padding: prompts of different lengths share a batch.
        trunk: a user's histories share a pass.
        decoder, prefixes: None where they are not used.
    """

    padding: bool
    trunk: bool
    decoder: Decoder | None
    prefixes: ItemPrefixes | None


def choose(
    model: nn.Module,
    causal: bool,
    prompts: Prompts,
    item_inputs: ItemInputs,
    user_out: Tensor,
    item_out: Tensor,
    user_inputs: Callable[[int], Tensor] | None,
    budget: Budget,
) -> Shortcuts:
    """Measure what may be right for a causal model, frozen or with adapters, and keep what is.

    Args:
        user_inputs: f_U(O_u) of `n` users, where prompts hold it: then histories have no beginning in common.
        budget: what kept prefixes may take.

    Raises:
        DataError: the model cannot run the longest prompt, or prompts in batches.
    """
    with busy_adapters(model):
        yardstick = Yardstick(model, prompts, item_inputs, user_out, user_inputs, item_out)
        padding = yardstick.padding()
        shared = causal and padding and user_inputs is None
        tuned = any(parameter.requires_grad for parameter in model.parameters())
        if not causal or tuned:
            print("item prefixes are not reused: the backbone is not causal or is being fine-tuned", flush=True)
        decoder = right_decoder(yardstick, shared) if padding and not runs_whole(model, causal, tuned) else None
        trunk = shared and (decoder is not None or _trunk_is_right(yardstick))
        prefixes = _right_prefixes(yardstick, decoder) if padding and causal and not tuned else None
    if prefixes is not None:
        prefixes.keep(budget)
    return Shortcuts(padding, trunk, decoder, prefixes)


def _trunk_is_right(yardstick: Yardstick) -> bool:
    return yardstick.right(
        lambda: yardstick.at_once(partial(read_out, yardstick.model)),
        yardstick.plain[: len(yardstick.sizes) + 2],
        "each history of a user is run by itself: in one pass,",
    )


def runs_whole(model: nn.Module, causal: bool, tuned: bool) -> bool:
    """Whether no other pass than the model's own can be right, tuned: with adapters."""
    # Beside weights of fewer bits, adapters run in these only by the model's own forward pass (`add_lora`).
    return not causal or (tuned and model.get_input_embeddings().weight.dtype != torch.float32)  # type: ignore[operator]


def right_decoder(yardstick: Yardstick, shared: bool) -> Decoder | None:
    """The decoder of the yardstick's model, if it is right on batches of prompts, and with `shared` on trunks."""
    decoder = Decoder.of(yardstick.model)
    if decoder is None:
        print(f"{LAYERS} the backbone's layers are not Llama's", flush=True)
        return None
    run, plain = decoder.read_out, yardstick.plain
    right = yardstick.right(
        lambda: torch.cat([yardstick.in_batches(run), *([yardstick.at_once(run)] if shared else [])]),
        torch.cat([plain, *([plain[: len(yardstick.sizes) + 2]] if shared else [])]),
        f"{LAYERS} run as Llama's,",
    )
    return decoder if right else None


def _right_prefixes(yardstick: Yardstick, decoder: Decoder | None) -> ItemPrefixes | None:
    built: list[ItemPrefixes] = []

    def compute() -> Tensor:
        built.append(ItemPrefixes(yardstick.model, decoder, yardstick.prompts, len(yardstick.prompts.title_sizes) - 1))
        ids = torch.from_numpy(yardstick.items).to(yardstick.plain.device)
        return built[0].read_out(ids, yardstick.item_inputs, yardstick.item_out)  # type: ignore[arg-type]

    of_items = yardstick.plain[-len(yardstick.items) :]
    return built[0] if yardstick.right(compute, of_items, "item prefixes are not reused: with them,") else None
