import re
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from llmsrec import params
from llmsrec.errors import ParamsError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def values() -> dict[str, Any]:
    return YAML(typ="safe").load((ROOT / "params.yaml").read_text())


def put(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    *parents, last = key.split(".")
    node = values
    for parent in parents:
        node = node[parent]
    node[last] = value
    return values


def test_the_committed_file_is_valid_and_holds_every_key(values: dict[str, Any]) -> None:
    assert params.load(ROOT / "params.yaml").model_dump() == values


def test_every_key_of_the_contract_is_there(values: dict[str, Any]) -> None:
    contract = """data.source data.category data.dir data.core data.user_fraction data.seed split.negatives
        split.shuffle_train split.seed backbone.model backbone.revision backbone.dtype backbone.lora_rank sasrec.dim
        sasrec.loss model.d_prime model.distill model.uniform model.distill_loss model.weights.retrieval
        model.weights.distill model.weights.uniform model.history model.candidates model.user_representation
        train.batch_size train.lr train.epochs train.evaluations_per_epoch train.patience train.seed"""
    for key in contract.split():
        node: Any = values
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def test_the_file_opens_with_ten_keys_that_it_has(values: dict[str, Any]) -> None:
    opening = (ROOT / "params.yaml").read_text().partition("\ndata:")[0]
    keys = re.findall(r"\b[a-z]+\.[a-z_]+\b", opening.partition("The ten")[2])
    assert len(set(keys)) == 10
    for section, _, key in (key.partition(".") for key in keys):
        assert key in values[section]


def test_lists_and_mappings_are_in_block_style() -> None:
    """`dvc exp run -S` rewrites flow lists, so a flow list would change the file at the first override."""
    text = re.sub(r"#.*", "", (ROOT / "params.yaml").read_text())
    assert not re.search(r"[\[{]", text)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.unifrom", False, "unknown key `model.unifrom`; the nearest valid key is `model.uniform`"),
        ("trian", {}, "unknown key `trian`; the nearest valid key is `train`"),
        ("model.weights.distil", 1.0, "the nearest valid key is `model.weights.distill`"),
        ("train.lr", "fast", "`train.lr` is 'fast': must be a number"),
        ("train.lr", "0.1", "`train.lr` is '0.1': must be a number"),
        ("train.epochs", 2.5, "`train.epochs` is 2.5"),
        ("train.epochs", 0, "`train.epochs` is 0: must be 1 or more"),
        ("model.uniform", "yes", "`model.uniform` is 'yes': must be true or false"),
        ("model.distill_loss", "kl", "`model.distill_loss` is 'kl': must be 'mse' or 'contrastive'"),
        ("data.category", "../../etc", "`data.category` is '../../etc'"),
        ("data.source", "ftp", "must be 'sample', 'hub' or 'files'."),
        ("data.source", "smaple", "must be 'sample', 'hub' or 'files' (did you mean 'sample'?)."),
        ("model.teacher", "grurec", "'nextitnet' or 'ctrl' (did you mean 'gru4rec'?)."),
        ("registry.gate.against", "lara", "'collm' or 'a_llmrec' (did you mean 'llara'?)."),
        ("data.core", 2, "`data.core` is 2: must be 3 or more"),
        ("backbone.revision", "main", "`backbone.revision` is 'main'"),
        ("sasrec.heads", 3, "`sasrec`: dim 64 must be a multiple of heads 3."),
        ("sasrec.low_pass", 0.7, "`sasrec`: low_pass 0.7 mixes all positions of a post-norm block"),
        ("sasrec.low_pass", 1.0, "`sasrec.low_pass` is 1.0: must be less than 1"),
        ("sasrec.samples", "prefix", "`sasrec.samples` is 'prefix': must be 'sequences' or 'prefixes'"),
        ("registry.alias", "latest", "`registry.alias`: alias latest is reserved by MLflow"),
        ("registry.alias", "v1", "`registry.alias`: alias v1 is reserved by MLflow"),
        ("registry.alias", "staging", "`registry.alias`: alias staging is moved by `llmsrec promote` alone"),
        ("registry.gate.latency_ms.cff", 1.0, "the nearest valid key is `registry.gate.latency_ms.cf`"),
        ("registry.gate.margin", -0.1, "`registry.gate.margin` is -0.1: must be 0 or more"),
        ("train.lr", float("inf"), "`train.lr` is inf: must be a finite number"),
        ("sasrec", 3, "`sasrec` is 3"),
    ],
)
def test_a_wrong_key_or_value_is_one_clear_error(values: dict[str, Any], key: str, value: Any, message: str) -> None:
    with pytest.raises(ParamsError, match=re.escape(message)):
        params.parse(put(values, key, value))


def test_a_missing_key_is_named(values: dict[str, Any]) -> None:
    del values["train"]["patience"]
    with pytest.raises(ParamsError, match=re.escape("`train.patience` is missing")):
        params.parse(values)


def test_a_mistyped_key_is_one_line_beside_a_missing_one(values: dict[str, Any]) -> None:
    values["model"]["uniforn"] = values["model"].pop("uniform")
    with pytest.raises(ParamsError) as alone:
        params.parse(values)
    assert str(alone.value) == ("params.yaml: unknown key `model.uniforn`; the nearest valid key is `model.uniform`.")
    del values["train"]["patience"]
    with pytest.raises(ParamsError) as both:
        params.parse(values)
    assert len(str(both.value).splitlines()) == 2
    assert "`train.patience` is missing" in str(both.value)


def test_a_file_that_is_not_there_or_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="is not there"):
        params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1, 2")
    with pytest.raises(ParamsError, match="is not valid YAML"):
        params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("- 1\n")
    with pytest.raises(ParamsError, match="holds list, not sections"):
        params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2024-02-30\n", r"day is out of range for month .*line 2, column 4"),
        ("a: 1\nb: " + "1" * 5000, r"Exceeds the limit \(4300 digits\).*line 2, column 4"),
        ("a: !!bool maybe\n", r"no value can be made of it: 'maybe'.*line 1, column 4"),
        ('a: !!int ""\n', r"no value can be made of it.*line 1, column 4"),
        ('a: "\\U00110000"\n', r"is not valid YAML: chr\(\) arg not in range"),
        ("a: 1\nfiles: *.csv\n", r"found undefined alias '\.csv'.*line 2, column 8"),
    ],
)
def test_a_value_that_yaml_cannot_make_is_one_line_that_says_where(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=f"is not valid YAML: .*{said}" if "line" in said else said) as caught:
        params.load(tmp_path / "params.yaml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_nothing_in_the_file_is_executed(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(f"a: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    with pytest.raises(ParamsError):
        params.load(tmp_path / "params.yaml")
    assert not (tmp_path / "made").exists()


LAUGHS = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "unfolds to more than 10,000 values, line 5"),
        (LAUGHS.replace("[", "{").replace("]", "}").replace("1,", "x: 1,"), "valid YAML|unfolds to more"),
        ("a: &a [*a]\n", "unfolds to more than"),
        ("a: &a\n  b: *a\n", "unfolds to more than"),
        ("a: " + "[" * 50_000, "nested more than 20 deep, line 1"),
        ("".join(f"{' ' * n}a:\n" for n in range(300)), "nested more than 20 deep, line 20"),
        ("a: " + "x" * 10_000_000, "has 10,000,003 characters"),
        ("data: [" + "1, " * 20_000 + "1]", "unfolds to more than"),
    ],
)
def test_a_yaml_bomb_is_one_line_at_once_and_takes_no_memory(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(ParamsError, match=said) as caught:
            params.load(tmp_path / "params.yaml")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert time.process_time() - began < 3, "traced, which is slow"
    assert peak < 20 * 2**20 + 8 * len(text)


def test_aliases_that_unfold_to_little_are_allowed(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    aliased = text.replace("seed: 0\n", "seed: &seed 0\n", 1).replace("seed: 0\n", "seed: *seed\n")
    assert "*seed" in aliased
    (tmp_path / "params.yaml").write_text(aliased)
    assert params.load(tmp_path / "params.yaml") == params.load(ROOT / "params.yaml")


def test_a_value_of_any_length_is_shown_in_short(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("d_prime: 128", f"d_prime: {'x' * 5000}"))
    with pytest.raises(ParamsError, match=r"`model\.d_prime` is 'xxx") as caught:
        params.load(tmp_path / "params.yaml")
    assert len(str(caught.value)) < 400
