"""A model folder is data: which of its files are read, and what else may lie there."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, BertTokenizer, LlamaConfig, LlamaForCausalLM

from llmsrec.engine import backbone
from llmsrec.engine.backbone_files import digest, read_files
from llmsrec.errors import DataError
from llmsrec.files import read_json

READ = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
BOMB = "raise SystemExit('code of the folder ran')\n"


@pytest.fixture
def local(backbone_folder: Path, tmp_path: Path) -> Path:
    """A user's own model folder."""
    folder = tmp_path / "my-model"
    shutil.copytree(backbone_folder, folder, ignore=shutil.ignore_patterns("backbone.json"))
    return folder


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**read_json(path), **values}))


def described(folder: Path) -> Path:
    """The folder of the backbone stage for a user's folder."""
    out = folder.parent / "out"
    backbone.describe(str(folder), None, folder.parent, out)
    return out


def refused(folder: Path) -> str:
    """The one line with which the backbone stage refuses a folder; it has written nothing."""
    with pytest.raises(DataError) as caught:
        described(folder)
    line = str(caught.value)
    assert "\n" not in line and "backbone-" not in line, "one line, which names the user's folder"
    assert not (folder.parent / "out/backbone.json").exists()
    return line


def shard(folder: Path) -> None:
    """Cut the weights into two files and an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {name: f"model-0000{1 + k % 2}-of-00002.safetensors" for k, name in enumerate(tensors)}
    for file in sorted(set(index.values())):
        part = {name: tensors[name] for name in tensors if index[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def test_what_is_read_decides_the_digest_and_nothing_else_does(local: Path) -> None:
    out, before = described(local), digest(read_files(local))
    assert sorted(read_files(local)) == READ
    for name in ("pytorch_model.bin", "training_args.bin", "notes.txt", "modeling_mine.py", "generation_config.json",
                 "chat_template.jinja", "adapter_config.json", "consolidated.safetensors"):  # fmt: skip
        (local / name).write_text("anything")
    (local / "deeper").mkdir()
    (local / "deeper/model.safetensors").write_text("anything")
    assert digest(read_files(local)) == before
    backbone.load(out)
    for name in READ:
        content = (local / name).read_bytes()
        (local / name).write_bytes(content + b" ")
        assert digest(read_files(local)) != before, name
        (local / name).write_bytes(content)
    (local / "special_tokens_map.json").write_text("{}")
    with pytest.raises(DataError, match="has changed since"):
        backbone.load(out)


def test_no_file_is_opened_that_the_digest_does_not_cover(local: Path) -> None:
    """In a folder with many kinds of others, seen through Python's own record of what is opened."""
    for name in ("pytorch_model.bin", "training_args.bin", "modeling_llama.py", "adapter_config.json",
                 "generation_config.json", "chat_template.jinja", "vocab.json", "merges.txt"):  # fmt: skip
        (local / name).write_text("{}")
    opened, watching = set(), True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and isinstance(arguments[0], (str, os.PathLike)):
            path = Path(arguments[0]).resolve()
            if path.parent == local.resolve():
                opened.add(path.name)

    sys.addaudithook(watch)
    backbone.load(described(local))
    watching = False
    assert {"config.json", "tokenizer_config.json"} <= opened <= set(READ)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", ["llama", "mine"], ids=["a known kind", "an unknown kind"])
def test_code_of_a_folder_is_refused_and_nobody_is_asked(
    local: Path, file: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on stdin"))
    (local / "modeling_mine.py").write_text(BOMB)
    names = {
        "AutoConfig": "modeling_mine.C",
        "AutoModel": "modeling_mine.M",
        "AutoTokenizer": ["modeling_mine.T", None],
    }
    change(local / "config.json", model_type=kind)
    change(local / file, auto_map=names)
    line = refused(local)
    assert line.startswith(f"{local / file} asks to run code that came with the model (`auto_map`)")


def test_an_unknown_kind_of_model(local: Path) -> None:
    change(local / "config.json", model_type="mine")
    assert 'cannot be loaded: its config.json has `model_type`: "mine", which this transformers does' in refused(local)


def test_a_chat_template_is_text_that_never_runs(local: Path) -> None:
    change(local / "tokenizer_config.json", chat_template="{{ raise_exception('it ran') }}{% for x in y")
    assert backbone.load(described(local)).width == 16


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_pickled_weights_are_never_read(local: Path, sharded: bool) -> None:
    name = "pytorch_model.bin"
    torch.save(load_file(local / "model.safetensors"), local / name)
    (local / "model.safetensors").unlink()
    if sharded:
        index = {"metadata": {}, "weight_map": {"model.norm.weight": name}}
        (local / f"{name}.index.json").write_text(json.dumps(index))
    assert "holds no weights (model.safetensors" in refused(local)
    change(local / "config.json", transformers_weights=name)
    assert "names its weights itself (`transformers_weights`)" in refused(local)


def test_weights_in_several_files(local: Path) -> None:
    whole = backbone.load(described(local)).model.state_dict()
    shard(local)
    parts = backbone.load(described(local)).model.state_dict()
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert len(read_files(local)) == 6
    before = digest(read_files(local))
    (local / "model-00003-of-00002.safetensors").write_text("of no index")
    assert digest(read_files(local)) == before


@pytest.mark.parametrize("absolute", [False, True])
def test_an_index_that_leads_out_of_the_folder(local: Path, absolute: bool) -> None:
    shard(local)
    outside = local.parent / "outside.safetensors"
    shutil.move(local / "model-00002-of-00002.safetensors", outside)
    index = local / "model.safetensors.index.json"
    name = str(outside) if absolute else "../outside.safetensors"
    names = {tensor: name if "00002-" in file else file for tensor, file in read_json(index)["weight_map"].items()}
    change(index, weight_map=names)
    assert f'{index} names the weights "' in refused(local)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "has no `weight_map`"),
        ('{"weight_map": {"a": 1}}', "has no `weight_map`"),
        ("{", "is not valid JSON"),
        ("[1]", "holds [1] instead of an object"),
        ('{"weight_map": {"a": "missing.safetensors"}}', 'names "missing.safetensors", which'),
        ('{"weight_map": {"a": "pytorch_model.bin"}}', "only *.safetensors beside the index are read"),
    ],
)
def test_a_broken_index(local: Path, content: str, message: str) -> None:
    shard(local)
    (local / "model.safetensors.index.json").write_text(content)
    assert message in refused(local)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_link_that_leads_out_of_the_folder(local: Path, name: str) -> None:
    outside = local.parent / "elsewhere"
    shutil.move(local / name, outside)
    (local / name).symlink_to(outside)
    assert f"{local / name} is a link to {outside.resolve()}, outside the folder" in refused(local)


def test_links_within_a_folder_and_into_a_hub_caches_blobs(local: Path) -> None:
    (local / "model.safetensors").rename(local / "weights")
    (local / "model.safetensors").symlink_to("weights")
    before = backbone.load(described(local)).model.state_dict()
    cache = local.parent / "models--owner--tiny"
    snapshot = cache / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for name, path in read_files(local).items():
        shutil.copyfile(path, cache / "blobs" / f"of-{name}")
        (snapshot / name).symlink_to(Path("../../blobs") / f"of-{name}")
    out = local.parent / "out"
    backbone.describe(str(snapshot), None, local, out)
    after = backbone.load(out).model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("name", "message"),
    [("model.safetensors", "holds no weights"), ("config.json", "holds no config.json"),
     ("tokenizer.json", "holds no tokenizer (tokenizer.json)")],
)  # fmt: skip
def test_a_folder_without(local: Path, name: str, message: str) -> None:
    (local / name).unlink()
    assert message in refused(local)
    (local / name).mkdir()
    assert message in refused(local)


@pytest.mark.parametrize("size", [0, 5, 200, -1])
def test_damaged_weights(local: Path, size: int) -> None:
    content = (local / "model.safetensors").read_bytes()
    (local / "model.safetensors").write_bytes(content[:size])
    assert f"{local / 'model.safetensors'} is damaged (" in refused(local)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\x00\xff", b"[]", b'{"a": 1', b"[" * 100_000])
def test_a_broken_configuration_or_tokenizer(local: Path, name: str, content: bytes) -> None:
    (local / name).write_bytes(content)
    assert str(local) in refused(local)


@pytest.mark.parametrize(
    "values",
    [{"num_attention_heads": 0}, {"hidden_size": "wide"}, {"num_hidden_layers": -1}, {"rope_parameters": 3},
     {"hidden_act": "no such"}, {"vocab_size": None}, {"model_type": None}, {"model_type": 7}, {"hidden_size": 10**9}],
    ids=str,
)  # fmt: skip
def test_a_configuration_with_odd_values(local: Path, values: dict[str, Any]) -> None:
    change(local / "config.json", **values)
    assert str(local) in refused(local)


def test_a_tokenizer_without_a_tokenizer_json(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnoprstuvwy.,:0123456789/", "##e", "##d"]
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = backbone.load(described(folder)).tokenizer
    assert isinstance(tokenizer, BertTokenizer)
    assert sorted(read_files(folder)) == ["config.json", "model.safetensors", "vocab.txt"]


def test_a_model_with_its_vocabulary_head_is_read_without_it(local: Path, tiny_backbone: Any) -> None:
    change(local / "config.json", tie_word_embeddings=False)
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(local, trust_remote_code=False))
    model.save_pretrained(local)
    assert "lm_head.weight" in load_file(local / "model.safetensors")
    assert backbone.load(described(local)).model.state_dict().keys() == tiny_backbone.model.state_dict().keys()


@pytest.mark.parametrize("nested", [False, True], ids=["at the top", "nested"])
@pytest.mark.parametrize(
    ("key", "value"),
    [("attn_implementation", "kernels-community/flash-attn"), ("_attn_implementation", "owner/name@main"),
     ("_attn_implementation", {"": "owner/name"}), ("attn_implementation", "paged|owner/name"),
     ("_experts_implementation", "sonicmoe"), ("use_kernels", True), ("auto_map", {"AutoModel": "o/n--m.M"})],
    ids=str,
)  # fmt: skip
def test_a_configuration_that_has_code_fetched_is_refused(local: Path, key: str, value: Any, nested: bool) -> None:
    change(local / "config.json", **({"text_config": {key: value}} if nested else {key: value}))
    line = refused(local)
    assert line.startswith(f"{local / 'config.json'} asks ") and f"`{key}`" in line


@pytest.mark.parametrize("word", ["eager", "sdpa", "flash_attention_2", None])
def test_a_plain_word_for_attention_is_read_and_fetches_nothing(local: Path, word: str | None) -> None:
    change(local / "config.json", _attn_implementation=word)
    assert backbone.load(described(local)).model.config._attn_implementation in ("eager", "sdpa")


def test_a_tensor_in_two_files(local: Path) -> None:
    shard(local)
    first, second = sorted(local.glob("model-*.safetensors"))
    name = "norm.weight" if "norm.weight" in load_file(first) else next(iter(load_file(first)))
    save_file({**load_file(second), name: load_file(first)[name] + 1}, second, metadata={"format": "pt"})
    assert f"the tensor {name} is in both {first} and {second}" in refused(local)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_packed_weights_that_no_configuration_explains(local: Path, dtype: torch.dtype) -> None:
    tensors = load_file(local / "model.safetensors")
    name = next(name for name in tensors if name.endswith("up_proj.weight"))
    save_file({**tensors, name: tensors[name].to(dtype)}, local / "model.safetensors", metadata={"format": "pt"})
    assert f"holds {name} as {'U8' if dtype == torch.uint8 else 'I8'}, a quantized type" in refused(local)


@pytest.mark.parametrize(
    ("key", "value"),
    [("hidden_act", "nonexist"), ("dtype", "odd"), ("torch_dtype", "odd"), ("quantization_config", "x")],
)
def test_a_value_that_transformers_does_not_know_is_named_with_its_key(local: Path, key: str, value: str) -> None:
    configuration = read_json(local / "config.json")
    configuration.pop("dtype", None)
    (local / "config.json").write_text(json.dumps({**configuration, key: value}))
    line = refused(local)
    assert f'config.json has `{key}`: "{value}", which this transformers does not know' in line
    assert "from its source again" in line
