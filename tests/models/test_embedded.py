from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmsrec.files import read_json, sha256
from llmsrec.models import embedded
from llmsrec.models.prompts import PHRASES
from llmsrec.params import Embedded

TITLES = [
    f"{colour} {thing} <|eot_id|>" for colour in ("Red", "Blue", "Grün") for thing in ("Soap", "Hair Mask", "Tent")
]


def settings(**changes: Any) -> Embedded:
    values = {
        "vocab_size": 700, "hidden_size": 16, "layers": 1, "heads": 2,
        "steps": 3, "batch_size": 2, "lr": 0.01, "seed": 3,
    }  # fmt: skip
    return Embedded(**{**values, **changes})


def test_it_is_an_ordinary_model_folder_without_pickles(tmp_path: Path) -> None:
    embedded.train(TITLES, settings(), tmp_path)
    assert read_json(tmp_path / "backbone.json")["kind"] == "embedded"
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("Blue Tent", return_tensors="pt")["input_ids"]
    assert torch.isfinite(model(input_ids=ids).logits).all()
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == "Blue Tent"
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_equal_settings_give_equal_files(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        embedded.train(TITLES, settings(seed=seed), tmp_path / name)
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b") != sha256(tmp_path / "c")


def test_global_randomness_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    embedded.train(TITLES, settings(steps=1), tmp_path)
    assert torch.equal(torch.rand(1), expected)


def test_fixed_words_of_prompts_are_few_tokens_and_any_text_can_be_told() -> None:
    tokenizer = embedded.train_tokenizer(TITLES * 30, 1500, np.random.default_rng(0))
    for phrase in PHRASES:
        assert len(tokenizer(phrase, add_special_tokens=False)["input_ids"]) == 1, phrase
    odd = "日本 ☕ naïve\t[No.3 Time: 2014/01/30"
    assert tokenizer.decode(tokenizer(odd, add_special_tokens=False)["input_ids"]) == odd


def test_documents_are_prompts_followed_by_words_of_their_titles() -> None:
    tokenizer = embedded.train_tokenizer(TITLES, 700, np.random.default_rng(0))
    source = embedded.documents(TITLES, tokenizer, np.random.default_rng(1))
    seen = set()
    for _ in range(30):
        document = next(source)
        assert document[0] == tokenizer.bos_token_id
        assert document[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in document[:-1], "a title is only text here, too"
        text = tokenizer.decode(document[1:-1])
        prompt, _, words = text.rpartition(" representation token:")
        seen.add(prompt.split()[1])
        assert words.split()
        assert all(word in prompt.replace(",", " ").split() for word in words.split())
    assert seen == {"user", "item"}


def test_training_lowers_the_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embedded.train(TITLES, settings(steps=100, batch_size=4), tmp_path)
    losses = [float(line.split("loss ")[1].split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert losses[-1] < losses[0] < np.log(700)
