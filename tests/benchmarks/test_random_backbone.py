"""Random weights in a known shape: another model that every stage can use, the same for the same seed."""

import torch

from benchmarks import random_backbone
from llmsrec.engine import backbone


def test_it_has_the_shape_and_the_words_and_other_weights(backbone_folder, tmp_path):
    random_backbone.write(backbone_folder, tmp_path / "a", 0)
    random_backbone.write(backbone_folder, tmp_path / "b", 0)
    random_backbone.write(backbone_folder, tmp_path / "c", 1)
    for name in "abc":
        (tmp_path / f"of_{name}").mkdir()
        backbone.describe(str(tmp_path / name), None, tmp_path, tmp_path / f"of_{name}")
    a, b, c = (backbone.load(tmp_path / f"of_{name}") for name in "abc")
    of = {name: dict(model.model.named_parameters()) for name, model in (("a", a), ("b", b), ("c", c))}
    assert all(torch.equal(tensor, of["b"][name]) for name, tensor in of["a"].items())
    assert not torch.equal(of["a"]["embed_tokens.weight"], of["c"]["embed_tokens.weight"])
    text = "a red lamp"
    assert a.tokenizer(text)["input_ids"] == c.tokenizer(text)["input_ids"]
