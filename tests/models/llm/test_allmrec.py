"""A-LLMRec's stage 1: its autoencoders, and the codes that stage 2 reads."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llmsrec.errors import DataError
from llmsrec.models.llm import allmrec
from llmsrec.models.llm.allmrec import Autoencoders


def test_codes_are_a_linear_layer_and_a_sigmoid() -> None:
    model, vectors = Autoencoders(d=4, w=6, k=3, seed=1), torch.randn(2, 4)
    weight, bias = model.item_encoder.weight, model.item_encoder.bias
    plain = [
        [1 / (1 + torch.exp(-(sum(weight[k, j] * row[j] for j in range(4)) + bias[k]))) for k in range(3)]
        for row in vectors
    ]
    torch.testing.assert_close(model.item_codes(vectors), torch.tensor(plain))
    assert model.text_codes(torch.randn(5, 6)).shape == (5, 3)
    assert model.item_decoder(model.item_codes(vectors)).shape == (2, 4)
    again = Autoencoders(d=4, w=6, k=3, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_text_vectors_have_mean_0_and_deviation_1_over_the_items() -> None:
    vectors = torch.cat([torch.zeros(1, 4), 5 + 3 * torch.randn(50, 4)])
    scaled = allmrec.standardised(vectors)
    torch.testing.assert_close(scaled[1:].mean(dim=0), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(scaled[1:].std(dim=0), torch.ones(4), rtol=0, atol=1e-4)
    assert not scaled[0].any()


def test_a_cold_item_has_the_code_of_its_text(tmp_path: Path) -> None:
    model = Autoencoders(d=4, w=6, k=3, seed=1)
    items, texts = torch.randn(5, 4), torch.randn(5, 6)
    cold = np.array([True, False, True, False, False])
    allmrec.save(tmp_path, model, items, texts, cold)
    codes = allmrec.read(tmp_path, 4)
    assert not codes[0].any()
    torch.testing.assert_close(codes[2], model.text_codes(texts[2]), rtol=0, atol=0)
    torch.testing.assert_close(codes[[1, 3, 4]], model.item_codes(items[[1, 3, 4]]), rtol=1e-6, atol=1e-7)


def test_codes_that_cannot_be_read_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"codes\.safetensors cannot be read .*stage1@a_llmrec"):
        allmrec.read(tmp_path, 4)
    (tmp_path / "codes.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match=r"codes\.safetensors cannot be read"):
        allmrec.read(tmp_path, 4)


def test_codes_of_another_catalogue_are_refused(tmp_path: Path) -> None:
    model = Autoencoders(d=4, w=6, k=3, seed=1)
    allmrec.save(tmp_path, model, torch.randn(5, 4), torch.randn(5, 6), np.zeros(5, dtype=bool))
    with pytest.raises(DataError, match=r"codes of 4 items, and the catalogue has 30: .*stage1@a_llmrec"):
        allmrec.read(tmp_path, 30)
