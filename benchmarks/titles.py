"""What 20 titles cost when they share their prompt, beside 20 separate passes; and greedy text beside them.

    python -m benchmarks.titles --files data/beauty             # Beauty's real titles; about two minutes
    python -m benchmarks.titles --data data --shape wide           # the folder that the pipeline wrote

Prompts are Table 1's with ten items and item embeddings; weights are random. `separate` runs each prompt with each of
its titles as one text, padded, 20 texts a pass; `shared` runs the prompt once and its titles in a tree behind it. Both
give the same likelihoods; how far they are apart is printed. The sides take turns.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import common
from benchmarks.common import Figures, Shape
from llmsrec.data import choices
from llmsrec.data.choices import Choices, Titles
from llmsrec.engine import likelihood
from llmsrec.engine.backbone import Backbone
from llmsrec.engine.generation import greedy
from llmsrec.models.llm.titles import TitleModel
from llmsrec.prompts.answers import Answers
from llmsrec.prompts.retrieval import PromptSettings

SHAPES = {"small": common.SMALL, "wide": common.WIDE}
USERS = {"small": 12, "wide": 4}  # prompts of a batch
BATCHES = 2


class Sides:
    """One model and some batches of prompts, each with 20 titles."""

    def __init__(self, folder: Path, shape: Shape, users: int) -> None:
        names = common.titles(folder)
        whole, tokenizer = common.language_model(names, shape)
        backbone = Backbone(whole.model, tokenizer, True, whole.config.max_position_embeddings, whole)
        teacher = common.teacher(len(names))
        self.model = TitleModel(backbone, teacher, names, PromptSettings.of(common.settings().model), 0).eval()
        known, titles = common.interactions(folder), Titles.of(names)
        rng = np.random.default_rng(0)
        chosen = rng.choice(known.users, BATCHES * users, replace=False) + 1
        drawn = choices.draw(titles, titles.known(known), chosen, known.items[known.offsets[chosen + 1] - 1], [rng] * 3)
        histories = known.drop_last(1)
        self.batches: list[tuple[list[np.ndarray], list[np.ndarray], Choices]] = []
        for begin in range(0, len(chosen), users):
            pairs = [histories.of(user) for user in chosen[begin : begin + users].tolist()]
            of = drawn.rows(np.arange(begin, begin + users))
            self.batches.append(([pair[0] for pair in pairs], [pair[1] for pair in pairs], of))
        self.users = users * BATCHES

    @torch.no_grad()
    def shared(self, batch: int) -> likelihood.Scores:
        """The prompt's keys and values are computed once."""
        read, answers = self._prefill(batch)
        return likelihood.score(self.model.backbone, self.model.vocabulary, read, answers, self.model.way)

    @torch.no_grad()
    def separate(self, batch: int) -> torch.Tensor:
        """`[B, 20]` summed likelihoods, 20 texts a pass."""
        items, times, of = self.batches[batch]
        inputs, lengths = self.model._inputs((items, times), None, of.items)
        answers, rows = self.model.prompts.answers(of.items), []
        for row in range(len(items)):
            token_ids, sizes = answers.token_ids[row][:, None], answers.sizes[row][:, None]
            of_row = Answers(token_ids, sizes)
            whole = inputs[row : row + 1, : lengths[row]].expand(len(sizes), -1, -1)
            states = likelihood.as_one_text(self.model.backbone, whole, lengths[row].expand(len(sizes)), of_row)
            number, _, steps = of_row.places
            tokens = torch.from_numpy(token_ids[number, 0, steps])
            values = self.model.vocabulary(states).log_softmax(dim=1).gather(1, tokens[:, None])[:, 0]
            rows.append(torch.zeros(len(sizes)).index_add(0, torch.from_numpy(number), values))
        return torch.stack(rows)

    @torch.no_grad()
    def prompt(self, batch: int) -> None:
        """The prompt alone."""
        self._prefill(batch)

    @torch.no_grad()
    def written(self, batch: int) -> None:
        """The prompt, its 20 titles, and greedy text for all."""
        read, answers = self._prefill(batch)
        model = self.model
        likelihood.score(model.backbone, model.vocabulary, read, answers, model.way)
        greedy(model.backbone, model.vocabulary, read, model.prompts.end, model.prompts.longest, model.way)

    def _prefill(self, batch: int) -> tuple[likelihood.Prefilled, Answers]:
        items, times, of = self.batches[batch]
        return self.model._prefill((items, times), None, of.items), self.model.prompts.answers(of.items)

    def rate(self, run: Any) -> float:
        """Users a second."""
        return self.users / common.timed(lambda: [run(batch) for batch in range(BATCHES)])


def compare(sides: Sides) -> Figures:
    ways = {"prompt alone": sides.prompt, "shared": sides.shared, "with greedy text": sides.written}
    every = {"separate": sides.separate} | ways
    figures = common.in_turn({f"{name}, users/s": partial(sides.rate, run) for name, run in every.items()}, 3)
    for name in ("separate", "prompt alone"):
        figures[f"shared / {name}"] = common.ratios(figures, "shared, users/s", f"{name}, users/s")
    return figures


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--shape", choices=SHAPES, action="append", help="only this language model")
    chosen = parser.parse_args()
    print(common.machine(), flush=True)
    results = {}
    with common.data(chosen) as folder:
        for name in chosen.shape or list(SHAPES):
            sides = Sides(folder, SHAPES[name], USERS[name])
            apart = float((sides.shared(0).summed - sides.separate(0)).abs().max())
            title = f"{SHAPES[name]}, {sides.model.way.__name__}; likelihoods differ by {apart:.1e} nats at most"
            print(f"\n{title}")
            results[title] = compare(sides)
            common.show(results[title])
    common.write(chosen.json, results)


if __name__ == "__main__":
    main()
