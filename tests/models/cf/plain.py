"""The slow, obvious forms of the teachers: one history, without padding or batch, step by step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llmsrec.models.cf.bert4rec import BERT4Rec
from llmsrec.models.cf.gru4rec import GRU4Rec
from llmsrec.models.cf.nextitnet import NextItNet
from llmsrec.models.cf.teacher import MASK


def gru4rec(model: GRU4Rec, history: Sequence[int]) -> Tensor:
    """`[L, d]`: gate by gate (Cho et al., 2014, in the form of torch's GRU)."""
    states = [model.item.weight.new_zeros(model.config["hidden"]) for _ in model.layers]
    vectors = []
    for item in history:
        x = model.item.weight[item, :-1] * 8**0.5
        for number, layer in enumerate(model.layers):
            before, after = states[number], []
            of_input = layer.weight_ih_l0 @ x + layer.bias_ih_l0
            of_state = layer.weight_hh_l0 @ before + layer.bias_hh_l0
            width = len(before)
            for i in range(width):
                reset = torch.sigmoid(of_input[i] + of_state[i])
                update = torch.sigmoid(of_input[width + i] + of_state[width + i])
                new = torch.tanh(of_input[2 * width + i] + reset * of_state[2 * width + i])
                after.append((1 - update) * new + update * before[i])
            x = states[number] = torch.stack(after)
        vectors.append(torch.cat([model.norm(model.output(x)), x.new_ones(1)]))
    return torch.stack(vectors)


def nextitnet(model: NextItNet, history: Sequence[int]) -> Tensor:
    """`[L, d]`: position by position, with zeros before the first item."""
    x = [model.item.weight[item, :-1] * 8**0.5 for item in history]
    for block in model.blocks:
        added = x
        for convolution in (block.first, block.second):
            before, added = added, []
            for i in range(len(history)):
                places = [i - 2 * convolution.dilation, i - convolution.dilation, i]
                parts = [before[place] if place >= 0 else torch.zeros_like(before[0]) for place in places]
                added.append(convolution.norm(convolution.weights(torch.cat(parts))).clamp(min=0))
        x = [own + more for own, more in zip(x, added, strict=True)]
    return torch.stack([torch.cat([model.norm(model.output(own)), own.new_ones(1)]) for own in x])


def bert4rec(model: BERT4Rec, row: Sequence[int]) -> Tensor:
    """`[L, d]` of a row with masks: query by query and head by head, all positions seen by all."""
    length = len(row)
    rows = []
    for i, item in enumerate(row):
        vector = model.mask[0] if item == MASK else model.item.weight[item, :-1]
        rows.append(model.norm(vector + model.position.weight[length - 1 - i]))
    x = torch.stack(rows)
    for block in model.blocks:
        x = block.attention_norm(x + attended(block, x))  # type: ignore[operator]
        inner = block.inner(x)  # type: ignore[operator]
        x = block.feed_forward_norm(x + block.outer(gelu(inner)))  # type: ignore[operator]
    head = model.output_norm(gelu(model.output(x)))
    return torch.cat([head, head.new_ones(length, 1)], dim=1)


def attended(block: Any, x: Tensor) -> Tensor:
    length, dim = x.shape
    width = dim // block.heads
    query, key, value = block.query_key_value(x).chunk(3, dim=-1)
    mixed = x.new_zeros(length, dim)
    for i in range(length):
        for head in range(block.heads):
            part = slice(head * width, (head + 1) * width)
            scores = torch.stack([query[i, part] @ key[j, part] / width**0.5 for j in range(length)])
            weights = scores.exp() / scores.exp().sum()
            mixed[i, part] = sum(weights[j] * value[j, part] for j in range(length))
    return block.output(mixed)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2
