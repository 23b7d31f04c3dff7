"""The language model on ONNX Runtime: the twin runs whole prompts through torch's own forward pass."""

import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmsrec.engine.backbone import load_tokenizer
from llmsrec.engine.kept import UNLIMITED
from llmsrec.engine.readout import read_out
from llmsrec.errors import DataError
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.on_onnx import OnOnnx, PlainTokenizer
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import Event, Request, Similar
from tests.answers import assert_same_answer
from tests.conftest import Tiny, make_tiny

START, DAY = 1_391_040_000_000, 86_400_000  # ms


@pytest.fixture(scope="module")
def tiny_explicit(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Prompts begin with the user's own vector (Table 2 (c))."""
    return make_tiny(tmp_path_factory.mktemp("explicit"), user_representation=True)


def loaded(bundle: Path) -> Recommender:
    return Recommender(Bundle.open(bundle), on_onnx=True)


def request(items: list[int], tower: str = "llm") -> Request:
    events = [Event(parent_asin=f"B{item}", timestamp=START + day * DAY) for day, item in enumerate(items)]
    return Request(history=events, k=10, tower=tower)


@pytest.mark.parametrize("shape", ["tiny", "tiny_explicit"])
def test_hidden_states_are_those_of_torchs_own_pass(shape: str, request: pytest.FixtureRequest) -> None:
    built = request.getfixturevalue(shape)
    tower: Any = loaded(built.bundle).tower("llm")
    assert isinstance(tower._language, OnOnnx)
    histories = [built.sequences.of(user) for user in range(1, 9)]
    users = tower._prompts.users([items for items, _ in histories], [times for _, times in histories])
    items, inputs = tower._prompts.items(np.arange(1, 31)), tower._item_inputs
    seen = tower._some_user_inputs(8) if tower._explicit else None
    for prompts, out, of_users in ((users, tower._user_out, seen), (items, tower._item_out, None)):
        actual = torch.from_numpy(tower._language.read_out(prompts, inputs, out, of_users))
        tensors = [None if values is None else torch.from_numpy(values) for values in (inputs, out, of_users)]
        with torch.no_grad():
            plain = read_out(built.model.backbone, prompts, tensors[0].__getitem__, *tensors[1:])  # type: ignore[union-attr,arg-type]
        torch.testing.assert_close(actual, plain, rtol=1e-5, atol=1e-5 * plain.abs().max().item())


@pytest.mark.parametrize("limit", [0, 40_000, UNLIMITED], ids=["nothing kept", "a little", "all"])
def test_answers_are_those_of_torch(limit: int, tiny: Any) -> None:
    ours, torchs = loaded(tiny.bundle), Recommender.load(tiny.bundle)
    assert (ours.runtime, torchs.runtime) == ("onnx", "torch")
    ours.keep(limit)
    for items in ([3, 7], [3, 7, 9], [8], [3, 7, 9, 12], [3, 7, 9, 12, 4, 5, 6], [3, 7, 9]):
        for tower in ("llm", "blend", "cf", "teacher"):
            (answer,), (right,) = (of.recommend([request(items, tower)]) for of in (ours, torchs))
            assert_same_answer(answer.model_dump(), right.model_dump())
    together = [request([3, 7]), request([3, 7, 9, 1]), request([30, 29, 28])]
    for answer, right in zip(ours.recommend(together), torchs.recommend(together), strict=True):
        assert_same_answer(answer.model_dump(), right.model_dump())
    counted = ours.kept()
    assert (counted is None) == (limit == 0)
    assert counted is None or (counted["found"] > 0 and counted["bytes"] <= limit)
    similar = [of.similar(Similar(title="A bottle of rose oil", k=5)) for of in (ours, torchs)]
    assert [item.parent_asin for item in similar[0].items] == [item.parent_asin for item in similar[1].items]
    np.testing.assert_allclose(*([item.score for item in answer.items] for answer in similar), atol=1e-5)


def test_eight_threads_get_what_one_gets(tiny: Any) -> None:
    recommender = loaded(tiny.bundle)
    recommender.keep(40_000)  # so that events come and go all the time
    asked = [request([1 + (3 * k + n) % 30 for n in range(1 + k % 4)]) for k in range(24)]
    right = [recommender.recommend([one])[0] for one in asked]

    def ask(thread: int) -> None:
        for one, answer in zip(asked[thread:] + asked[:thread], right[thread:] + right[:thread], strict=True):
            assert_same_answer(recommender.recommend([one])[0].model_dump(), answer.model_dump())

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [None] * 8


def test_texts_become_the_tokens_that_transformers_makes_of_them(tiny: Any) -> None:
    theirs = load_tokenizer(tiny.folder / "models/backbone")
    ours = PlainTokenizer(tiny.bundle / "layers/tokenizer.json")
    texts = [
        "",
        " ",
        "a",
        "Grüße, 東京 🧴",
        *(token.content for token in theirs.added_tokens_decoder.values()),
        " Title:",
    ]
    for special in (False, True):
        expected = theirs(texts, add_special_tokens=special)["input_ids"]
        assert ours(texts, add_special_tokens=special)["input_ids"] == expected
        assert [ours(text, add_special_tokens=special)["input_ids"] for text in texts] == expected
    assert {t.content for t in ours.added_tokens_decoder.values()} == set(texts[4:-1])


@pytest.mark.parametrize("name", ["decoder.onnx", "tokenizer.json"])
def test_a_file_that_cannot_be_read_is_one_line(name: str, tiny: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.bundle, tmp_path / "bundle"))
    (folder / "layers" / name).write_bytes(b"nothing of the kind")
    bundle = dataclasses.replace(Bundle.open(tiny.bundle), folder=folder)
    with pytest.raises(DataError, match=r"bundle/layers cannot be read: .* Export the model again"):
        Recommender(bundle, on_onnx=True).warm()
