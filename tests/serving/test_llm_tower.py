"""The `llm` tower as the engine runs it, with and without what it keeps of users' prompts."""

from typing import Any

import pytest
import torch

from llmsrec.engine.kept import UNLIMITED
from llmsrec.engine.readout import read_out
from llmsrec.engine.torch_layers import TorchLayers
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.on_onnx import OnOnnx
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import Event, Request
from tests.answers import assert_same_answer

START, DAY = 1_391_040_000_000, 86_400_000  # ms


def request(items: list[int]) -> Request:
    events = [Event(parent_asin=f"B{item}", timestamp=START + day * DAY) for day, item in enumerate(items)]
    return Request(history=events, k=10, tower="llm")


@pytest.mark.parametrize("shape", ["tiny", "tiny_lora"])
def test_the_engine_gives_the_vectors_of_whole_prompts(shape: str, request: pytest.FixtureRequest) -> None:
    tiny = request.getfixturevalue(shape)
    tower: Any = Recommender.load(tiny.bundle).tower("llm")
    histories = [tiny.sequences.of(user) for user in range(1, 9)]
    prompts = tower._prompts.users([items for items, _ in histories], [times for _, times in histories])
    inputs, out, seen = tower._item_inputs, tower._user_out, tower._some_user_inputs(8) if tower._explicit else None
    actual = tower._language.read_out(prompts, inputs, out, seen)
    as_tensors = [None if values is None else torch.from_numpy(values) for values in (inputs, out, seen)]
    with torch.no_grad():
        plain = read_out(tower._language.model, prompts, as_tensors[0].__getitem__, *as_tensors[1:])
    assert tower._language.decoder is not None
    torch.testing.assert_close(torch.from_numpy(actual), plain, rtol=1e-5, atol=1e-5 * plain.abs().max().item())


def test_who_comes_back_gets_the_answers_of_who_comes_first(tiny: Any) -> None:
    keeping, plain = Recommender.load(tiny.bundle), Recommender.load(tiny.bundle)
    keeping.keep(UNLIMITED)
    histories = [[3, 7], [3, 7, 9], [3, 7, 9], [3, 7, 9, 12, 4], [8], [3, 7, 9, 12, 4, 5, 6], [8, 1]]
    for history in histories:
        ((answer,), (right,)) = (of.recommend([request(history)]) for of in (keeping, plain))
        assert_same_answer(answer.model_dump(), right.model_dump())
    counted = keeping.kept()
    assert counted is not None and plain.kept() is None
    # A prompt holds four items: those of five and seven begin with another.
    assert (counted["prompts"], counted["found"]) == (len(histories), 3)
    together = keeping.recommend([request(history) for history in histories])
    for answer, right in zip(together, plain.recommend([request(history) for history in histories]), strict=True):
        assert_same_answer(answer.model_dump(), right.model_dump())


def test_nothing_is_kept_without_room_and_where_prompts_begin_with_the_users_vector(tiny: Any, tiny_lora: Any) -> None:
    for bundle, limit in ((tiny.bundle, 0), (tiny_lora.bundle, UNLIMITED)):
        recommender = Recommender.load(bundle)
        recommender.keep(limit)
        assert recommender.kept() is None


@pytest.mark.parametrize("layers", [TorchLayers, OnOnnx])
def test_a_model_that_is_wrong_with_what_is_kept_keeps_nothing_and_says_so(
    layers: type[Any], tiny: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = layers.follow

    def wrong(self: Any, *arguments: Any) -> Any:
        hidden, new = run(self, *arguments)
        return hidden, new * 1.01

    monkeypatch.setattr(layers, "follow", wrong)
    recommender = Recommender(Bundle.open(tiny.bundle), on_onnx=layers is OnOnnx)
    recommender.keep(UNLIMITED)
    assert recommender.kept() is None
    assert "users' prompts are not kept: with them, vectors are" in capsys.readouterr().out
