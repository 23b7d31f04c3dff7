from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from llmsrec.engine import embedded
from llmsrec.errors import ParamsError
from llmsrec.files import read_json, sha256
from llmsrec.params import Embedded
from llmsrec.prompts.retrieval import OUT, PHRASES, Prompts

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
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    ids = tokenizer("Blue Tent", return_tensors="pt")["input_ids"]
    assert torch.isfinite(model(input_ids=ids).logits).all()
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == "Blue Tent"
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".jinja"}


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11, 20, 21])
def test_any_number_of_steps_trains(tmp_path: Path, steps: int) -> None:
    embedded.train(TITLES, settings(steps=steps), tmp_path)
    assert (tmp_path / "model.safetensors").exists()


def test_a_training_that_diverges_names_the_learning_rate_and_leaves_no_model(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"loss is (nan|inf) at step \d+; lower `backbone\.embedded\.lr` \(1e\+30\)"):
        embedded.train(TITLES, settings(lr=1e30, steps=20), tmp_path)
    assert not list(tmp_path.iterdir())


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


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return embedded.train_tokenizer(TITLES, 700, np.random.default_rng(0))


def some_lessons(tokenizer: Any, count: int, batch_size: int = 3) -> tuple[Prompts, list[embedded.Lesson]]:
    prompts = Prompts(tokenizer, TITLES, embedded.LIMITS)
    source = embedded.lessons(len(TITLES), prompts, batch_size, np.random.default_rng(1))
    return prompts, list(islice(source, count))


def test_lessons_read_the_last_titles_first(tokenizer: Any) -> None:
    _, lessons = some_lessons(tokenizer, 12)
    lengths = set()
    for step, lesson in enumerate(lessons, start=1):
        slots = lesson.prompts.slots
        assert np.count_nonzero(slots == OUT) == len(lesson.titles)
        if step % embedded.ITEM_PROMPTS == 0:
            assert lesson.titles.tolist() == [[row[row > 0].item()] for row in slots]
            continue
        expected = []
        for row in slots:
            history = row[row > 0].tolist()
            lengths.add(len(history))
            for end in range(1, len(history) + 1):
                last = history[:end][::-1][: embedded.READ]
                expected.append(last + [0] * (embedded.READ - len(last)))
        assert lesson.titles.tolist() == expected
    assert lengths == {1, 2}, "short histories come first"


def test_losses_are_those_of_separate_prompts(tokenizer: Any) -> None:
    """Against each history's own prompt, one after the other, and words counted one by one."""
    prompts, (lesson, *_) = some_lessons(tokenizer, 1)
    torch.manual_seed(0)
    config = embedded.configuration(settings(layers=2), tokenizer)
    model = LlamaForCausalLM(config).eval()
    reading = embedded.copying(model, torch.Generator().manual_seed(1))
    torch.nn.init.normal_(reading)
    words = embedded.title_words(TITLES, tokenizer)
    with torch.no_grad():
        following, read_loss = embedded.losses(model, reading, words, lesson, torch.Generator().manual_seed(2))

        vocabulary = model.get_input_embeddings().weight
        rows, _ = np.nonzero(lesson.prompts.slots > 0)
        generator = torch.Generator().manual_seed(2)
        noise = torch.randn(len(rows), 16, generator=generator) * vocabulary.std()
        noise *= 1 + 2 * torch.rand((), generator=generator)
        read_words: dict[int, list[float]] = {age: [] for age in range(embedded.READ)}
        next_token = []
        for row, slots in enumerate(lesson.prompts.slots):
            history = slots[slots > 0]
            trunk = lesson.prompts.branches[row] == 0  # type: ignore[index]
            trunk &= np.arange(len(trunk)) < lesson.prompts.lengths[row]
            ids, text = lesson.prompts.token_ids[row][trunk], slots[trunk] == 0
            inputs = vocabulary[torch.from_numpy(ids)].clone()
            inputs[slots[trunk] > 0] = noise[rows == row]
            hidden = model.model(inputs_embeds=inputs[None]).last_hidden_state[0]
            for place in range(len(ids) - 1):
                if text[place] and text[place + 1]:
                    next_token.append(-(hidden[place] @ vocabulary.T).log_softmax(0)[ids[place + 1]].item())
            ends = np.flatnonzero(slots[trunk] > 0) + 1
            tail = vocabulary[torch.tensor([*prompts.user_tail, lesson.out])]
            for count, end in enumerate(ends, start=1):
                state = model.model(inputs_embeds=torch.cat([inputs[:end], tail])[None]).last_hidden_state[0, -1]
                for age, item in enumerate(history[:count][::-1][: embedded.READ]):
                    tokens = set(words[item].tolist()) - {-1}
                    odds = (state @ reading[age] @ vocabulary.T).log_softmax(0)
                    read_words[age].append(-float(np.mean([odds[token].item() for token in tokens])))
    assert following.item() == pytest.approx(np.mean(next_token), rel=1e-4)
    weights = [embedded.EARLIER**age for age in read_words for _ in read_words[age]]
    values = [value for of_age in read_words.values() for value in of_age]
    assert read_loss.item() == pytest.approx(np.average(values, weights=weights), rel=1e-4)


def test_title_words_are_a_titles_own_tokens(tokenizer: Any) -> None:
    words = embedded.title_words(TITLES, tokenizer)
    assert len(words) == len(TITLES) + 1
    assert (words[0] == -1).all()
    assert not (words == tokenizer.eos_token_id).any(), "a title is only text here, too"
    first = words[1][words[1] >= 0].tolist()
    assert len(set(first)) == len(first)
    present = tokenizer.decode(first)
    assert "Red" in present and "Blue" not in present


def test_attention_starts_by_copying(tokenizer: Any) -> None:
    model = LlamaForCausalLM(embedded.configuration(settings(), tokenizer))
    embedded.copying(model, torch.Generator().manual_seed(1))
    attention: Any = model.model.layers[0].self_attn
    product = attention.o_proj.weight @ attention.v_proj.weight
    torch.testing.assert_close(product, torch.eye(16) * embedded.COPIED**2, atol=1e-5, rtol=0)


def test_training_lowers_both_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embedded.train(TITLES, settings(steps=100, batch_size=2), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    for name in ("next token", "titles"):
        losses = [float(line.split(f"{name} ")[1].split()[0]) for line in lines]
        assert losses[-1] < losses[0] < np.log(700), name
