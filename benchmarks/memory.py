"""What a training step of LLM-SRec takes of a device's memory, computed; and how well the formula does. Run by hand:

    python -m benchmarks.memory                # Llama-3.2-3B, the paper's settings: a table, computed
    python -m benchmarks.memory --prompt 1024  # with prompts at the limit of `model.max_tokens`
    python -m benchmarks.memory --verify       # small models on this CPU: computed beside measured
    python -m benchmarks.memory --verify --llama-3b   # Llama-3.2-3B itself, random, in bfloat16, for three users

The formula (bytes; e = 2 for bfloat16, 4 for float32):

    weights      the backbone's parameters: linear layers at e, or 1 (8bit), or 1/2 + 4/64 (4bit: a float32 scale for
                 each block of 64); embeddings at 2 where quantised
    trained      16 for each parameter of heads and tokens: value, gradient, Adam's two moments, in float32
    activations  of the users' prompts, for each position and layer but the last, what the backward pass of frozen
                 layers needs: the inputs of two norms in float32 (8 d), three products of the feed-forward layer
                 (3 f e), queries and attended values (2 q e), keys and values (2 k e), and a few numbers a head; of
                 the last layer, of which one position is read, a norm's input, keys and values.
                 With gradient checkpointing: each layer's input (d e) and the last layer's part
    items        the same of the items' last positions, never checkpointed, and for each the keys and values of its
                 prefix (2 k e for each position and layer)
    transient    one layer as it is passed backward: its gradients, (3 f + 4 d) e for each position, and with
                 checkpointing what it keeps when it is computed again

`f` is the width of the feed-forward layer, `q` of all query heads, `k` of all key heads. Frozen linear layers need no
input for their backward pass, which is why no 4 d + 2 f of inputs appear above. Not in it: the device's context, what
an allocator leaves unused, and the kept prefixes (their budget).

Measured is the peak of resident memory during a step, in a process of its own, above what it was before.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

GIB = 2**30
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}  # what is freed goes back at once


@dataclass(frozen=True)
class Shape:
    """A Llama: widths of the residual stream and the feed-forward layer, layers, heads, key heads, vocabulary."""

    d: int
    f: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    head_width: int

    def llama(self, dtype: str, **config: Any) -> Any:
        """Such a model with random weights, frozen, without the projection onto the vocabulary."""
        import torch
        from transformers import LlamaConfig, LlamaModel

        values = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.d,
            "intermediate_size": self.f,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "head_dim": self.head_width,
        }
        model = LlamaModel._from_config(LlamaConfig(**values | config), dtype=getattr(torch, dtype))
        return model.requires_grad_(False).eval()

    @property
    def linear(self) -> int:
        q, k = self.heads * self.head_width, self.key_heads * self.head_width
        return self.layers * (2 * self.d * q + 2 * self.d * k + 3 * self.d * self.f)


@dataclass(frozen=True)
class Step:
    """A step's positions: of users' prompts with padding, of items' ends, and of the prefixes of these items."""

    users: int
    items: int
    prefixes: int


LLAMA_3B = Shape(3072, 8192, 28, 24, 8, 128_256, 128)
SMALL = [Shape(256, 1024, 8, 8, 8, 600, 32), Shape(384, 768, 6, 6, 2, 600, 64)]


def computed(shape: Shape, step: Step, trained: int, dtype: str, quantization: str, again: bool) -> dict[str, float]:
    """Bytes of each part; `again` is gradient checkpointing, `trained` the number of trained parameters."""
    e = 4 if dtype == "float32" else 2
    each = {"none": e, "8bit": 1, "4bit": 0.5 + 4 / 64}[quantization]
    q, k = shape.heads * shape.head_width, shape.key_heads * shape.head_width
    kept = 8 * shape.d + (3 * shape.f + 2 * q + 2 * k) * e + 8 + 4 * shape.heads
    last = 4 * shape.d + 2 * k * e
    each_user = shape.layers * shape.d * e if again else (shape.layers - 1) * kept
    return {
        "weights": shape.linear * each + shape.vocabulary * shape.d * e,
        "trained": 16 * trained,
        "activations": step.users * (each_user + last),
        "items": step.items * ((shape.layers - 1) * kept + last) + step.prefixes * shape.layers * 2 * k * e,
        "transient": step.users * ((3 * shape.f + 4 * shape.d) * e + kept * again),
    }


def table(prompt: int, batch: int, hidden: int) -> None:
    """The paper's step: `batch` users, 4 candidates each, last targets, d' 128, d 64."""
    candidates = 4 * batch  # all different
    step = Step(batch * prompt, candidates * 13, candidates * 32)
    d, d_prime, cf = LLAMA_3B.d, 128, 64
    trained = (
        2 * (d * hidden + 3 * hidden + hidden * d_prime + d_prime)
        + (cf * 2 * cf + 6 * cf + 2 * cf * d_prime + d_prime)
        + (cf * d + 3 * d + d * d + d)
        + 2 * d
    )
    print(f"Llama-3.2-3B, {batch} users with prompts of {prompt} tokens, {candidates} items; computed, GiB")
    print(
        f"{'weights':<10}{'again':<7}" + "".join(f"{name:>13}" for name in ("weights", "trained", "activations")),
        end="",
    )
    print("".join(f"{name:>11}" for name in ("items", "transient", "sum")))
    for quantization in ("none", "8bit", "4bit"):
        for again in (False, True):
            parts = computed(LLAMA_3B, step, trained, "bfloat16", quantization, again)
            name = "bfloat16" if quantization == "none" else quantization
            values = [parts[n] / GIB for n in ("weights", "trained", "activations")]
            more = [parts["items"] / GIB, parts["transient"] / GIB, sum(parts.values()) / GIB]
            print(f"{name:<10}{'yes' if again else 'no':<7}" + "".join(f"{v:>13.2f}" for v in values), end="")
            print("".join(f"{v:>11.2f}" for v in more))
    per_token = LLAMA_3B.layers * 2 * LLAMA_3B.key_heads * LLAMA_3B.head_width * 2
    print(f"a kept prefix takes {per_token:,} bytes a token: {per_token * 32 / 2**20:.2f} MiB for an item of 32 tokens")


def verify(shapes: list[Shape], dtypes: list[str], users: int) -> None:
    print(f"{'shape':<30}{'dtype':<10}{'again':<7}{'computed':>10}{'measured':>10}{'ratio':>7}   MiB above the weights")
    for shape in shapes:
        for dtype in dtypes:
            for again in (False, True):
                job = json.dumps({"shape": asdict(shape), "dtype": dtype, "again": again, "users": users})
                command = [sys.executable, "-m", "benchmarks.memory", "--measure", job]
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=ALLOCATOR | os.environ)
                measured = json.loads(done.stdout.splitlines()[-1])
                parts = computed(shape, Step(**measured["step"]), measured["trained"], dtype, "none", again)
                mine = sum(value for name, value in parts.items() if name not in ("weights", "trained"))
                name = f"{shape.layers} x {shape.d}, f {shape.f}, keys {shape.key_heads}/{shape.heads}"
                print(f"{name:<30}{dtype:<10}{'yes' if again else 'no':<7}{mine / 2**20:>10.0f}", end="")
                print(f"{measured['peak'] / 2**20:>10.0f}{measured['peak'] / mine:>7.2f}", flush=True)


def measure(shape: Shape, dtype: str, again: bool, users: int) -> dict[str, object]:
    """A step of a random model with `shape`: the peak in bytes above what was there, and its positions."""
    import numpy as np
    import torch

    from llmsrec.data.sequences import Sequences
    from llmsrec.engine import backbone, embedded, wrapped_layers
    from llmsrec.models.cf import sasrec
    from llmsrec.models.llm.retrieval import LLMSRec
    from llmsrec.params import Model, Weights
    from llmsrec.training.batches import Samples
    from llmsrec.training.retrieval import step_losses

    rng = np.random.default_rng(0)
    titles = [" ".join(f"word{n}" for n in rng.integers(0, 300, 8)) for _ in range(10 * users)]
    tokenizer = embedded.train_tokenizer(titles, min(600, shape.vocabulary), rng)
    model = shape.llama(dtype, vocab_size=max(len(tokenizer), shape.vocabulary))
    base = backbone.Backbone(model, tokenizer, True, 2048)
    teacher = sasrec.SASRec(len(titles), 64, 1, 1, 10, 0.0).initialise(torch.Generator().manual_seed(0))
    settings = Model(
        teacher="sasrec", d_prime=128, head_hidden=128, history=10, title_tokens=20, max_tokens=1024,
        date_format="YYYY/MM/DD",
        user_representation=False, candidates=4, negatives="own", distill=True, uniform=True, distill_loss="mse",
        distill_normalize=False, weights=Weights(retrieval=1.0, cf_retrieval=0.0, distill=1.0, uniform=1.0),
    )  # fmt: skip
    events = 11
    items = rng.integers(1, len(titles) + 1, users * events).astype(np.int32)
    offsets = np.concatenate([[0], np.arange(users + 1) * events])
    sequences = Sequences(offsets, items, np.full(len(items), 1_500_000_000_000))
    srec = LLMSRec(base, teacher, titles, settings, seed=0)
    if again:
        wrapped_layers.checkpoint_layers(model)
    samples, rows = Samples.of(sequences, len(titles), "last", 10), np.arange(users)
    srec.item_vectors()  # fills the prefixes

    asked: list[int] = []
    hidden_items = srec.hidden_items

    def noting(item_ids: torch.Tensor) -> torch.Tensor:
        asked.extend(item_ids.tolist())
        return hidden_items(item_ids)

    srec.hidden_items = noting  # type: ignore[method-assign]
    trained = list(srec.trainable().values())

    def step(some: np.ndarray) -> None:
        losses = step_losses(srec, samples, some, settings, np.random.default_rng(0))
        torch.stack(list(losses.values())).sum().backward()

    step(rows[:1])
    asked.clear()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _resident("VmRSS")
    step(rows)
    prefixes = int(srec.prompts.item_prefixes(np.array(asked))[1].sum())
    width = srec.prompts.users(*samples.histories(rows)[:2]).token_ids.shape[1]
    positions = Step(users * width, len(asked) * (len(srec.prompts.item_tail) + 2), prefixes)
    return {
        "peak": _resident("VmHWM") - before,
        "step": asdict(positions),
        "trained": sum(parameter.numel() for parameter in trained),
    }


def _resident(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return 1024 * int(match[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", type=int, default=420, help="tokens of a user's prompt")
    parser.add_argument("--batch", type=int, default=20, help="users of a step")
    parser.add_argument("--head-hidden", type=int, default=2048, help="`model.head_hidden`")
    parser.add_argument("--verify", action="store_true", help="measure small models on this CPU instead")
    parser.add_argument("--llama-3b", action="store_true", help="with --verify: Llama-3.2-3B; takes 14 GiB, minutes")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        job = json.loads(chosen.measure)
        print(json.dumps(measure(Shape(**job["shape"]), job["dtype"], job["again"], job["users"])))
    elif chosen.verify and chosen.llama_3b:
        verify([LLAMA_3B], ["bfloat16"], 3)
    elif chosen.verify:
        verify(SMALL, ["float32", "bfloat16"], 20)
    else:
        table(chosen.prompt, chosen.batch, chosen.head_hidden)


if __name__ == "__main__":
    main()
