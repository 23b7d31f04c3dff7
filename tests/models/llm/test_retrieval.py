import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from transformers import BertConfig, BertModel

from llmsrec.data.sequences import Sequences
from llmsrec.engine import backbone, lora, wrapped_layers
from llmsrec.engine.readout import read_out
from llmsrec.errors import DataError
from llmsrec.models.llm import retrieval as llm_srec
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.training.batches import Samples
from llmsrec.training.retrieval import step_losses

TITLES = [f"{colour} {thing}" for colour in ("Red", "Blue", "Grün") for thing in ("Soap", "Hair Mask for Men", "Tent")]


@pytest.fixture
def model(tiny_backbone: Any, teacher: Any, settings: Any) -> LLMSRec:
    return LLMSRec(tiny_backbone, teacher, TITLES, settings, seed=0)


def losses_of(model: LLMSRec, sequences: Sequences, settings: Any, targets: str = "last") -> dict[str, torch.Tensor]:
    samples = Samples.of(sequences, len(TITLES), targets, settings.history)
    return step_losses(model, samples, np.arange(len(samples.users)), settings, np.random.default_rng(0))


def encoder() -> backbone.Backbone:
    from llmsrec.engine.embedded import train_tokenizer

    tokenizer = train_tokenizer(TITLES, 320, np.random.default_rng(0))
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=24, max_position_embeddings=512)  # fmt: skip
    model = BertModel(config, add_pooling_layer=False).requires_grad_(False).eval()
    return backbone.Backbone(model, tokenizer, backbone.is_causal(model), 512)


def test_gradients_reach_everything_trainable_and_nothing_frozen(
    model: LLMSRec, sequences: Sequences, settings: Any
) -> None:
    sum(losses_of(model, sequences, settings).values()).backward()
    assert set(model.trainable()) == {
        *(f"{head}.{k}.{kind}" for head in ("f_user", "f_item", "f_cf_user", "f_I") for k in (0, 1, 3)
          for kind in ("weight", "bias")),
        "user_out", "item_out",
    }  # fmt: skip
    for name, parameter in model.trainable().items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    assert len(frozen) > 10
    assert all(parameter.grad is None for parameter in frozen)


def test_gradients_reach_the_user_projection_and_adapters(
    tiny_backbone: Any, teacher: Any, sequences: Sequences, settings: Any, backbone_folder: Path
) -> None:
    settings = settings.model_copy(update={"user_representation": True})
    tuned = lora.add_lora(backbone.load(backbone_folder), 2, seed=0)
    model = LLMSRec(tuned, teacher, TITLES, settings, seed=0)
    assert model.prefixes is None, "prefixes are not constant while the backbone is being fine-tuned"
    sum(losses_of(model, sequences, settings).values()).backward()
    names = {name for name, parameter in model.trainable().items() if parameter.grad is not None}
    assert names == set(model.trainable())
    assert any("lora_A" in name for name in names)
    assert "f_U.0.weight" in names


def test_training_mode_leaves_the_teacher_and_the_backbone_without_dropout(model: LLMSRec) -> None:
    model.train()
    assert model.f_user.training
    assert not any(module.training for module in [*model.teacher.modules(), *model.backbone.modules()])


def test_ablated_losses_are_absent(model: LLMSRec, sequences: Sequences, settings: Any) -> None:
    assert losses_of(model, sequences, settings).keys() == {"retrieval", "distill", "uniform"}
    off = settings.model_copy(update={"distill": False, "uniform": False})
    assert losses_of(model, sequences, off).keys() == {"retrieval"}


@pytest.mark.parametrize("negatives", ["own", "shared", "in_batch", "all"])
@pytest.mark.parametrize("targets", ["last", "all"])
def test_step_losses_equal_the_plain_form(
    model: LLMSRec, sequences: Sequences, settings: Any, targets: str, negatives: str
) -> None:
    """Every history's prompt by itself, every candidate of every target through the model again; gradients too."""
    from llmsrec.models.losses import retrieval as losses

    weights = settings.weights.model_copy(update={"cf_retrieval": 0.5})
    settings = settings.model_copy(update={"negatives": negatives, "weights": weights})
    actual = losses_of(model, sequences, settings, targets)
    sum(actual.values()).backward()
    gradients = {name: parameter.grad for name, parameter in model.trainable().items()}

    samples = Samples.of(sequences, len(TITLES), targets, settings.history)
    cases = []  # user, events before the target, times, target
    for row in range(len(samples.users)):
        items, times = sequences.of(samples.users[row])
        for t in range(samples.first[row], samples.stop[row] + 1):
            begin = samples.start[row]
            cases.append((samples.users[row], items[:t], items[begin:t], times[begin:t], items[t]))
    drawn = samples.negatives(np.array([case[0] for case in cases]), settings.candidates - 1, np.random.default_rng(0))
    targets_of = [case[4] for case in cases]
    users, teachers, scores, cf_scores = [], [], [], []
    for (user, before, items, times, target), own in zip(cases, drawn, strict=True):
        prompt = model.prompts.users([items], [times])
        u = model.f_user(read_out(model.backbone, prompt, model.item_inputs, model.user_out))[0]
        users.append(u)
        teachers.append(model.f_cf_user(model.teacher.last(torch.from_numpy(before[-6:].astype(np.int64))[None]))[0])
        others = own if negatives == "own" else [n for n in np.unique(drawn) if n not in sequences.of(user)[0]]
        if negatives == "in_batch":
            others = [n for n in {*drawn.ravel(), *targets_of} if n not in sequences.of(user)[0]]
        if negatives == "all":
            others = [n for n in range(1, len(TITLES) + 1) if n not in sequences.of(user)[0]]
        line, cf_line = [], []
        for item in [target, *others]:
            hidden = read_out(model.backbone, model.prompts.items(np.array([item])), model.item_inputs, model.item_out)
            if negatives == "all":
                hidden = hidden.detach()
            excess = 0.0
            if negatives == "in_batch" and item != target:
                excess = np.log(
                    in_pool(targets_of.count(item) / len(cases), len(cases), drawn.size)
                    / in_pool(0, len(cases), drawn.size)
                )
            vector = model.f_item(hidden)[0]
            line.append(u @ vector - excess)
            cf_line.append(teachers[-1] @ (vector if negatives == "all" else vector.detach()) - excess)
        scores.append(losses.retrieval(torch.stack(line)[None]))
        cf_scores.append(losses.retrieval(torch.stack(cf_line)[None]))
    user, cf = torch.stack(users), torch.stack(teachers)
    owners = torch.tensor([int(case[0]) for case in cases])
    plain = {
        "retrieval": torch.stack(scores).mean(),
        "cf_retrieval": 0.5 * torch.stack(cf_scores).mean(),
        "distill": losses.distill_mse(cf, user, False),
        "uniform": losses.uniform(user, owners) + losses.uniform(cf, owners),
    }
    for name, value in plain.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-5, atol=1e-6)
    model.zero_grad()
    sum(plain.values()).backward()
    for name, parameter in model.trainable().items():
        if negatives == "all" and name == "item_out":
            assert gradients[name] is None and parameter.grad is None
        else:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-6)


def in_pool(share: float, targets: int, draws: int) -> float:
    """The chance that an item is among uniform draws or the positives of the other targets, draw by draw."""
    missed = 1.0
    for _ in range(draws):
        missed *= 1 - 1 / len(TITLES)
    for _ in range(targets - 1):
        missed *= 1 - share
    return 1 - missed


@pytest.mark.parametrize("kind", ["causal", "encoder", "user representation"])
def test_several_histories_at_once_equal_separate_prompts(
    kind: str, tiny_backbone: Any, teacher: Any, sequences: Sequences, settings: Any
) -> None:
    settings = settings.model_copy(update={"user_representation": kind == "user representation"})
    model = LLMSRec(encoder() if kind == "encoder" else tiny_backbone, teacher, TITLES, settings, seed=0)
    (a, a_times), (b, b_times) = (sequences.of(user) for user in (4, 5))
    seen = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    together = model.hidden_positions([a, b], [a_times, b_times], [2, 2], seen)
    histories = [(a[:2], a_times[:2]), (a, a_times), (b[:2], b_times[:2]), (b[:3], b_times[:3]), (b, b_times)]
    apart = [model.hidden_users([i], [t], seen[k : k + 1])[0] for k, (i, t) in enumerate(histories)]
    torch.testing.assert_close(together, torch.stack(apart), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_vectors_do_not_depend_on_the_batch(
    kind: str, tiny_backbone: Any, teacher: Any, sequences: Sequences, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_backbone if kind == "causal" else encoder()
    assert base.causal == (kind == "causal")
    model = LLMSRec(base, teacher, TITLES, settings, seed=0)
    users, items = model.user_vectors(sequences), model.item_vectors()
    assert users.shape == (6, 6)
    assert items.shape == (10, 6)
    assert not users[0].any()
    assert not items[0].any()
    monkeypatch.setattr(llm_srec, "BATCH_TOKENS", 1)
    torch.testing.assert_close(model.user_vectors(sequences), users, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.item_vectors(), items, rtol=1e-5, atol=1e-5)
    for user in (3, 1):
        alone = model.user_vectors(sequences, np.array([user]))
        torch.testing.assert_close(alone[0], users[user], rtol=1e-5, atol=1e-5)


def test_order_changes_a_user_vector(model: LLMSRec, sequences: Sequences) -> None:
    shuffled = model.user_vectors(sequences.shuffled(1))
    assert (shuffled[3] - model.user_vectors(sequences)[3]).abs().max() > 1e-4


def test_save_and_load(tiny: Any) -> None:
    root = tiny.folder
    paths = root / "models/backbone", root / "models/sasrec", root / "data/filtered/items.parquet"
    again = llm_srec.load(root / "models/llm_srec", *paths)
    torch.testing.assert_close(again.item_vectors(), tiny.model.item_vectors(), rtol=0, atol=0)
    assert not again.training


def test_a_damaged_checkpoint_is_one_clear_error(tiny: Any, tmp_path: Path) -> None:
    root = tiny.folder
    for file in (root / "models/llm_srec").glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    paths = root / "models/backbone", root / "models/sasrec", root / "data/filtered/items.parquet"
    with pytest.raises(DataError, match=r"model\.safetensors cannot be read"):
        llm_srec.load(tmp_path, *paths)


@pytest.mark.parametrize("kind", ["encoder", "LoRA"])
def test_reuse_switches_itself_off_and_says_so(
    kind: str, teacher: Any, settings: Any, backbone_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = encoder() if kind == "encoder" else lora.add_lora(backbone.load(backbone_folder), 2, seed=0)
    model = LLMSRec(base, teacher, TITLES, settings, seed=0)
    assert model.prefixes is None
    assert (model.decoder is None) == (kind == "encoder")
    assert "not reused" in capsys.readouterr().out
    prompts = model.prompts.items(np.array([3, 1]))
    plain = read_out(model.backbone, prompts, model.item_inputs, model.item_out)
    torch.testing.assert_close(model.hidden_items(torch.tensor([3, 1])), plain, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_as_near_to_float32_through_the_cache_as_in_the_plain_form(
    backbone_folder: Path, teacher: Any, sequences: Sequences, settings: Any
) -> None:
    """bfloat16 holds 8 bits, so one rounding is 2^-9 = 0.2 % off; a few dozen of them stay within 2 % of a vector."""
    exact = LLMSRec(backbone.load(backbone_folder), teacher, TITLES, settings, seed=0)
    model = LLMSRec(backbone.load(backbone_folder, "bfloat16"), teacher, TITLES, settings, seed=0)
    assert model.decoder is not None
    assert model.prefixes is not None
    ids = torch.arange(1, len(TITLES) + 1)
    items, times = zip(*(sequences.of(user) for user in (3, 4, 5)), strict=True)
    with torch.no_grad():
        for actual, right, plain in (
            (model.hidden_items(ids), exact.hidden_items(ids), model.prompts.items(ids.numpy())),
            (model.hidden_users(items, times), exact.hidden_users(items, times), model.prompts.users(items, times)),
        ):
            out = model.item_out if plain.slots.shape[0] == len(ids) else model.user_out
            separate = read_out(model.backbone, plain, model.item_inputs, out)
            for other in (separate, right):
                assert ((actual - other).norm(dim=1) / other.norm(dim=1)).max() < 0.02
            assert not torch.equal(actual, right), "else this is not bfloat16"
    losses = [sum(losses_of(m, sequences, settings, "all").values()) for m in (model, exact)]
    torch.testing.assert_close(*losses, rtol=0.02, atol=0.0)


@pytest.mark.parametrize(("kind", "again"), [("Llama", False), ("LoRA", True), ("encoder", False)])
def test_compiled_layers_give_the_same_losses_and_gradients(
    kind: str, again: bool, backbone_folder: Path, teacher: Any, sequences: Sequences, settings: Any
) -> None:
    """Alone, and where they are computed again in the backward pass."""

    def outcomes(compile: bool) -> list[torch.Tensor]:
        base = encoder() if kind == "encoder" else backbone.load(backbone_folder)
        if kind == "LoRA":
            base = lora.add_lora(base, 2, seed=0)
        model = LLMSRec(base, teacher, TITLES, settings, seed=0)
        model.configure_layers(again, compile)
        losses = losses_of(model.train(), sequences, settings, "all")
        sum(losses.values()).backward()
        gradients = [parameter.grad for parameter in model.trainable().values()]
        return [*losses.values(), *gradients, model.user_vectors(sequences)]

    torch._dynamo.reset()
    wrapped_layers.try_compiler.cache_clear()
    counters.clear()
    plain = outcomes(compile=False)
    assert not counters["stats"]
    for actual, right in zip(outcomes(compile=True), plain, strict=True):
        assert (actual - right).norm() <= 1e-5 * right.norm() + 1e-6
    assert counters["stats"]["unique_graphs"] > 2, "more than the one that tries the compiler"
    assert not counters["unimplemented"] and not counters["recompile_limit"]


def test_without_a_compiler_compiled_layers_are_one_clear_error(tmp_path: Path) -> None:
    code = "from llmsrec.engine.wrapped_layers import compiled; compiled(print)"
    nowhere = {"PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=nowhere, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert re.search(
        r"ParamsError: `backbone\.compile` is true, but .*No working C\+\+ compiler.*set it to false", done.stderr
    )


def gradients(model: LLMSRec) -> torch.Tensor:
    """Of all that is trained, one after the other."""
    return torch.cat([parameter.grad.flatten() for parameter in model.trainable().values()])


@pytest.mark.parametrize(("kind", "bound"), [("8bit", 0.1), ("4bit", 0.02)])
def test_quantized_weights_give_what_the_same_weights_give_unpacked(
    kind: str, bound: float, backbone_folder: Path, teacher: Any, sequences: Sequences, settings: Any
) -> None:
    """4bit differs by bfloat16's rounding; 8bit rounds activations too, to 1/127 of a row's largest, at each."""
    base = backbone.load(backbone_folder, quantization=kind)
    unpacked = replace(
        base, model=backbone.load(backbone_folder, quantization=kind).model.dequantize().requires_grad_(False)
    )
    quantized, right = (LLMSRec(each, teacher, TITLES, settings, seed=0) for each in (base, unpacked))
    assert quantized.backbone.layers[0].mlp.up_proj.weight.element_size() == 1
    assert quantized.prefixes is not None and quantized.decoder is not None
    for model in (quantized, right):
        model.item_vectors()  # a pass without a gradient comes first, as in a check
        sum(losses_of(model.train(), sequences, settings, "all").values()).backward()
    assert (gradients(quantized) - gradients(right)).norm() < bound * gradients(right).norm()
    items, times = zip(*(sequences.of(user) for user in (3, 4, 5)), strict=True)
    prompts = quantized.prompts.users(items, times)
    plain = read_out(quantized.backbone, prompts, quantized.item_inputs, quantized.user_out)
    assert (quantized.hidden_users(items, times) - plain).norm() < bound * plain.norm()


def test_adapters_of_a_bfloat16_backbone_are_float32_and_run_in_bfloat16(
    backbone_folder: Path, teacher: Any, sequences: Sequences, settings: Any
) -> None:
    actual = []
    for dtype in ("bfloat16", "float32"):
        tuned = lora.add_lora(backbone.load(backbone_folder, dtype), 2, seed=0)
        model = LLMSRec(tuned, teacher, TITLES, settings, seed=0)
        seen: set[torch.dtype] = set()
        for name, module in model.backbone.named_modules():
            if "lora_B." in name:
                module.weight.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))  # zero changes nothing
                module.register_forward_hook(lambda *arguments, seen=seen: seen.add(arguments[2].dtype))
        losses = losses_of(model.train(), sequences, settings, "all")
        sum(losses.values()).backward()
        assert seen == {getattr(torch, dtype)}
        assert {parameter.dtype for parameter in model.trainable().values()} == {torch.float32}
        actual.append((gradients(model), torch.stack(list(losses.values()))))
    (half, half_losses), (exact, exact_losses) = actual
    torch.testing.assert_close(half_losses, exact_losses, rtol=0.02, atol=0.0)
    assert 0 < (half - exact).norm() < 0.05 * exact.norm()
