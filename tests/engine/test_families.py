"""Each family of language models is right, by the cheaper passes that its row names and no others, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmsrec.engine import backbone
from llmsrec.engine.readout import read_out
from llmsrec.engine.yardstick import distance
from llmsrec.errors import LLMSRecError
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.prompts.retrieval import DAY_MS, PromptBatch
from tests.engine.families import FAMILIES, REFUSED, Family, table
from tests.tiny_models import TITLES

HISTORIES = [np.array([1, 2, 6]), np.array([5])]
TIMES = [DAY_MS * np.array([15_000, 15_003, 16_500]), DAY_MS * np.array([15_700])]
DOCUMENT = Path(__file__).parents[2] / "docs/troubleshooting.md"


def weights(family: Family) -> Any:
    torch.manual_seed(0)
    model = family.make()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.15)
    return model.requires_grad_(False).eval()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@torch.no_grad()
def test_a_family_is_right_by_the_passes_of_its_row(
    family: Family, tiny_backbone: Any, teacher: Any, settings: Any
) -> None:
    base = weights(family)
    settings = settings.model_copy(update={"history": 3})
    causal = backbone.is_causal(base)
    assert causal == family.causal
    model = LLMSRec(backbone.Backbone(base, tiny_backbone.tokenizer, causal, None), teacher, TITLES, settings, 0).eval()
    taken = {"padding": model.padding, "trunk": model.trunk, "prefixes": model.prefixes, "layers": model.decoder}
    assert {name for name, value in taken.items() if value} == set(family.passes)

    def alone(batch: PromptBatch, out: torch.Tensor) -> torch.Tensor:
        return read_out(base, batch, model.item_inputs, out)

    ids = torch.tensor([3, 1, 7])
    items = torch.cat([alone(model.prompts.items(np.array([item])), model.item_out) for item in ids.tolist()])
    parts = [(i[:n], t[:n]) for i, t in zip(HISTORIES, TIMES, strict=True) for n in range(1, len(i) + 1)]
    every = torch.cat([alone(model.prompts.users([i], [t]), model.user_out) for i, t in parts])
    assert distance(model.hidden_items(ids), items) < 1e-5
    assert distance(model.hidden_users(HISTORIES, TIMES), every[[2, 3]]) < 1e-5
    assert distance(model.hidden_positions(HISTORIES, TIMES, [1, 1]), every) < 1e-5
    assert model.f_user(every).shape == (4, settings.d_prime)


@pytest.mark.parametrize("family", REFUSED, ids=lambda family: family.name)
def test_a_family_that_cannot_be_used_is_refused_in_a_line(
    family: Family, tiny_backbone: Any, tmp_path: Path, teacher: Any, settings: Any
) -> None:
    weights(family).save_pretrained(tmp_path / "model")
    tiny_backbone.tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(LLMSRecError) as caught:
        backbone.describe("model", None, tmp_path, tmp_path / "backbone")
        LLMSRec(backbone.load(tmp_path / "backbone"), teacher, TITLES, settings, 0)
    assert "\n" not in str(caught.value)


def test_the_document_holds_the_table() -> None:
    assert table() in DOCUMENT.read_text(encoding="utf-8"), "put in what `python -m tests.engine.families` prints"
