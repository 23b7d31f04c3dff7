"""The plain form of LLM-SRec's training step, as the field's reference implementations do it.

Prompts are strings that are tokenised at each step, with a special token in the vocabulary for each thing that is not
text, padded on the right to the longest; the causal language model runs whole, forward and backward, with logits and
all hidden states; every user has four candidates of their own. Nothing is kept from one step to the next. It has the
heads and tokens of the model it is compared with, so that both have nearly the same loss on the same batch: where a
title ends in a bracket, the tokenizer may join it with the comma that follows.
"""

import copy
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.models.losses import retrieval as losses
from llmsrec.prompts import retrieval as prompts

HISTORY, USER_OUT, ITEM_OUT = "[HistoryEmb]", "[UserOut]", "[ItemOut]"


class Plain:
    """Prompts, forward pass and loss of Eq. 4, in the plain form.

    Args:
        language_model: the causal-LM whose base model is `model`'s backbone.
        titles: of items 1..I.
        title_tokens: a longer title is cut.
        model: whose heads, tokens and teacher are used.
    """

    def __init__(
        self, language_model: LlamaForCausalLM, tokenizer: Any, titles: list[str], title_tokens: int, model: LLMSRec
    ) -> None:
        self.language_model, self.model = language_model, model
        encoded = tokenizer([f" {title}" for title in titles], add_special_tokens=False)["input_ids"]
        self.titles = [tokenizer.decode(tokens[:title_tokens]).removeprefix(" ") for tokens in encoded]
        self.tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.add_special_tokens({"additional_special_tokens": [HISTORY, USER_OUT, ITEM_OUT]})
        self.slots = self.tokenizer.convert_tokens_to_ids([HISTORY, USER_OUT, ITEM_OUT])

    def user_prompt(self, items: np.ndarray, timestamps: np.ndarray) -> str:
        """Table 2 (b)."""
        events = []
        for number, (item, time) in enumerate(zip(items.tolist(), timestamps.tolist(), strict=True), start=1):
            day = datetime.fromtimestamp(time / 1000, tz=UTC).strftime(" %Y/%m/%d")
            title = self.titles[item - 1]
            events.append(f"{prompts.NUMBER.format(number)}{day}{prompts.TITLE} {title},{HISTORY}")
        return f"{prompts.ORDER}{'],'.join(events)}{prompts.GENERATE}{USER_OUT}"

    def item_prompt(self, item: int) -> str:
        """Table 2, item side."""
        return f"{prompts.ITEM} {self.titles[item - 1]},{HISTORY}{prompts.ITEM_GENERATE}{ITEM_OUT}"

    def read_out(self, texts: list[str], item_ids: np.ndarray, out: Tensor) -> Tensor:
        """`[n, d_llm]`; `item_ids` are those of all [HistoryEmb], in order."""
        batch = self.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        ids = batch["input_ids"]
        inputs = self.language_model.get_input_embeddings()(ids.clamp(max=self.language_model.config.vocab_size - 1))
        of_items = self.model.item_inputs(torch.from_numpy(item_ids.astype(np.int64)))
        inputs[ids == self.slots[0]] = of_items.to(inputs.dtype)
        places = (ids == self.slots[1]) | (ids == self.slots[2])
        inputs[places] = out.to(inputs.dtype)
        output = self.language_model(
            inputs_embeds=inputs, attention_mask=batch["attention_mask"], output_hidden_states=True
        )
        return output.hidden_states[-1][places].float()

    def item_vectors(self, item_ids: np.ndarray) -> Tensor:
        """`[n, d']` f_item(h_i)."""
        texts = [self.item_prompt(item) for item in item_ids.tolist()]
        return self.model.f_item(self.read_out(texts, item_ids, self.model.item_out))

    def loss(
        self,
        users: np.ndarray,
        items: list[np.ndarray],
        timestamps: list[np.ndarray],
        before: np.ndarray,
        candidates: np.ndarray,
    ) -> Tensor:
        """Eq. 4 with equal weights.

        Args:
            users: `[B]` ids.
            items, timestamps: the history of each prompt.
            before: `[B, L]` what the teacher sees.
            candidates: `[B, C]` item ids, the positive first.
        """
        texts = [self.user_prompt(*history) for history in zip(items, timestamps, strict=True)]
        user = self.model.f_user(self.read_out(texts, np.concatenate(items), self.model.user_out))
        vectors = self.item_vectors(candidates.ravel()).view(*candidates.shape, -1)
        with torch.no_grad():
            seen = self.model.teacher.last(torch.from_numpy(before))
        cf_user, owners = self.model.f_cf_user(seen), torch.from_numpy(users)
        return (
            losses.retrieval(torch.einsum("bd,bcd->bc", user, vectors))
            + losses.distill_mse(cf_user, user, False)
            + losses.uniform(user, owners)
            + losses.uniform(cf_user, owners)
        )
