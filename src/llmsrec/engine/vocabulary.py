"""From hidden states to logits over the vocabulary, as a language model's own head does it."""

from typing import Any

import torch
from torch import Tensor

from llmsrec.engine.yardstick import tolerance
from llmsrec.errors import DataError

TRIED = 9  # tokens of the text on which the projection is measured


class Vocabulary:
    """The projection of a causal language model without its layers, so that only states that are read are projected.

    Most families project with one matrix. Some scale or bound the logits as well (Cohere, Gemma 2): there, the family's
    own code is run around hidden states that are handed to it. What is taken is measured against the whole model.

    Args:
        whole: a causal language model with its head; its base model may be wrapped by adapters later on.

    Raises:
        DataError: the model has no projection, or none that gives the logits of the whole model.
    """

    def __init__(self, whole: Any) -> None:
        self._whole, self._head = whole, whole.get_output_embeddings()
        inputs = whole.get_input_embeddings().weight[:TRIED].detach()[None]
        with torch.no_grad():
            logits = whole(inputs_embeds=inputs, use_cache=False).logits[0].float()
            hidden = whole.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state[0]
            ways = [self._project, self._by_family] if self._head is not None else [self._by_family]
            self._way = next((way for way in ways if _right(way, hidden, logits, tolerance(whole))), None)
        if self._way is None:
            raise DataError(
                f"the backbone {type(whole).__name__} gives no logits of given hidden states; choose another causal "
                "language model as `backbone.model`."
            )

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits `[n, V]` float32 of hidden states `[n, d_llm]`."""
        assert self._way is not None
        return self._way(hidden).float()

    def _project(self, hidden: Tensor) -> Tensor:
        return self._head(hidden.to(self._head.weight.dtype))

    def _by_family(self, hidden: Tensor) -> Tensor:
        inputs = hidden.to(self._whole.get_input_embeddings().weight.dtype)[None]
        base = self._whole.base_model
        own, base.forward = base.forward, lambda *_, **__: _Handed(inputs)
        try:
            return self._whole(inputs_embeds=inputs, use_cache=False).logits[0]
        finally:
            base.forward = own


class _Handed:
    """The output of a base model that has not run: hidden states, and None for all else that a family may ask for."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: Any) -> Any:
        return self.last_hidden_state if index == 0 else ()


def _right(way: Any, hidden: Tensor, logits: Tensor, most: float) -> bool:
    try:
        given = way(hidden).float()
    except Exception:  # whatever a family's code stumbles over
        return False
    return given.shape == logits.shape and float((given - logits).norm()) <= most * float(logits.norm())
