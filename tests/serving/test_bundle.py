import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from llmsrec.errors import DataError
from llmsrec.files import sha256
from llmsrec.serving.bundle import Bundle, seal, verify


@pytest.fixture
def copy(tiny: Any, tmp_path: Path) -> Path:
    """Without the bytecode that other tests leave in `tiny`'s, which they load."""
    bytecode = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(tiny.bundle, tmp_path / "bundle", ignore=bytecode))


def test_the_manifest_has_the_sha256_of_every_file(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    names = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()} - {"manifest.json"}
    assert manifest["files"] == {name: sha256(copy / name) for name in names}
    assert verify(copy) == manifest["bundle_sha256"] == seal(copy)


def test_any_altered_missing_or_added_file_is_named(copy: Path) -> None:
    for name in json.loads((copy / "manifest.json").read_text())["files"]:
        path = copy / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(DataError, match=f"{name} is not the file"):
            Bundle.open(copy)
        path.unlink()
        with pytest.raises(DataError, match=f"{name} is in manifest.json but not"):
            Bundle.open(copy)
        path.write_bytes(content)
    (copy / "backbone/adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match=r"backbone/adapter_config.json is in the folder but not"):
        Bundle.open(copy)


def test_an_altered_manifest_is_refused(copy: Path) -> None:
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"bundle_sha256": "0" * 64}))
    with pytest.raises(DataError, match="does not match its own"):
        Bundle.open(copy)
    path.write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        Bundle.open(copy)
    path.write_text('{"files": []}')
    with pytest.raises(DataError, match="not a manifest"):
        Bundle.open(copy)


def test_what_is_no_bundle_and_another_format_are_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a bundle"):
        Bundle.open(tmp_path / "nowhere")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"format": 2}))
    seal(copy)
    with pytest.raises(DataError, match="format 2"):
        Bundle.open(copy)


@pytest.mark.parametrize("name", ["code/llmsrec/__pycache__/files.cpython-311.pyc", "code/llmsrec/later.pyc"])
def test_bytecode_that_python_would_run_instead_of_the_source_is_refused(copy: Path, name: str) -> None:
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"is bytecode, which Python would run .*; delete it"):
        Bundle.open(copy)
    with pytest.raises(DataError, match="is bytecode"):
        seal(copy)


@pytest.mark.parametrize("name", ["items.parquet", "code", "onnx/f_item.onnx", "extra"])
def test_a_link_is_refused_wherever_it_points(copy: Path, tmp_path: Path, name: str) -> None:
    if name == "extra":
        (tmp_path / "extra").mkdir()
    else:
        (copy / name).rename(tmp_path / Path(name).name)
    (copy / name).symlink_to(tmp_path / Path(name).name)
    with pytest.raises(DataError, match=f"{name} is a link"):
        Bundle.open(copy)


def test_what_is_neither_file_nor_folder_is_refused(copy: Path) -> None:
    os.mkfifo(copy / "onnx/pipe")
    with pytest.raises(DataError, match="pipe is neither a file nor a folder"):
        Bundle.open(copy)


def test_the_bundles_own_folder_may_be_reached_by_a_link(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(copy)
    assert Bundle.open(tmp_path / "link").digest == verify(copy)


def rewrite_items(copy: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    change(pl.read_parquet(copy / "items.parquet")).write_parquet(copy / "items.parquet")


def rewrite_tensor(copy: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensors = load_file(copy / "vectors.safetensors")
    save_file(tensors | {name: change(tensors[name])}, copy / "vectors.safetensors")


def rewrite_config(copy: Path, **shapes: Any) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"shapes": config["shapes"] | shapes}))


def test_the_catalogue_has_each_items_store_and_categories(copy: Path) -> None:
    bundle = Bundle.open(copy)
    assert bundle.stores().to_list()[:3] == ["Shop 1", "Shop 2", None]
    assert bundle.categories().to_list()[:2] == [["Home", "Shelf 1"], ["Home", "Shelf 2"]]


def test_a_bundle_from_before_there_were_stores_and_categories_has_none(copy: Path) -> None:
    rewrite_items(copy, lambda items: items.drop("store", "categories"))
    seal(copy)
    bundle = Bundle.open(copy)
    assert bundle.stores().to_list() == [None] * 30 and bundle.stores().dtype == pl.String
    assert bundle.categories().to_list() == [[]] * 30 and bundle.categories().dtype == pl.List(pl.String)


def spoil(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[-1] = np.nan
    return values


def spoil_model(copy: Path, name: str) -> None:
    """NaN in the last number of each weight of an ONNX file; of SASRec's item embeddings in one item's only."""
    model = onnx.load(copy / f"onnx/{name}.onnx")
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if values.dtype == np.float32 and values.ndim == 2:
            values[17 % len(values), -1] = np.nan
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            break
    onnx.save_model(model, copy / f"onnx/{name}.onnx")


RESEALED = {
    "a row short": (lambda copy: rewrite_items(copy, lambda items: items[:-1]), "29 rows for 30 items"),
    "ids from 0": (
        lambda copy: rewrite_items(copy, lambda items: items.with_columns(pl.col("item_id") - 1)),
        "item ids are not 1 to 30",
    ),
    "a repeated id": (
        lambda copy: rewrite_items(copy, lambda items: pl.concat([items[:29], items[:1]])),
        "item ids are not 1 to 30",
    ),
    "a repeated asin": (
        lambda copy: rewrite_items(copy, lambda items: items.with_columns(parent_asin=pl.lit("B1"))),
        "29 rows repeat a parent_asin",
    ),
    "no title": (
        lambda copy: rewrite_items(copy, lambda items: items.with_columns(title=pl.lit(None, pl.String))),
        "30 rows have no title",
    ),
    "a column less": (lambda copy: rewrite_items(copy, lambda items: items.drop("count")), "its columns are item_id"),
    "stores that are numbers": (
        lambda copy: rewrite_items(copy, lambda items: items.with_columns(store=pl.lit(1))),
        "`store` holds Int32, not String",
    ),
    "categories that are no lists": (
        lambda copy: rewrite_items(copy, lambda items: items.with_columns(categories=pl.lit("Home"))),
        "`categories` holds String, not List",
    ),
    "another kind": (
        lambda copy: rewrite_items(copy, lambda items: items.with_columns(count=pl.lit("9"))),
        "`count` holds String",
    ),
    "no parquet": (lambda copy: (copy / "items.parquet").write_bytes(b"x"), "items.parquet cannot be read"),
    "NaN in vectors": (
        lambda copy: rewrite_tensor(copy, "item_vectors", spoil),
        "16 of 496 numbers in `item_vectors` of vectors.safetensors are NaN",
    ),
    "NaN in user_out": (lambda copy: rewrite_tensor(copy, "user_out", spoil), "1 of 32 numbers in `user_out`"),
    "a vector less": (
        lambda copy: rewrite_tensor(copy, "item_vectors", lambda values: values[:-1].copy()),
        r"`item_vectors` is float32 of shape \(30, 16\), not float32 of shape \(31, 16\)",
    ),
    "no tensors": (lambda copy: (copy / "vectors.safetensors").write_bytes(b"x" * 9), "vectors.safetensors cannot be"),
    "NaN in one item of SASRec": (lambda copy: spoil_model(copy, "sasrec"), "in an answer of onnx/sasrec.onnx are NaN"),
    "NaN in f_user": (lambda copy: spoil_model(copy, "f_user"), "in an answer of onnx/f_user.onnx are NaN"),
    "NaN in f_I": (lambda copy: spoil_model(copy, "f_I"), "in an answer of onnx/f_I.onnx are NaN"),
    "no model": (lambda copy: (copy / "onnx/f_user.onnx").unlink(), "f_user.onnx is not a bundle's: it is missing"),
    "no onnx": (lambda copy: (copy / "onnx/f_user.onnx").write_bytes(b"x"), "f_user.onnx cannot be read"),
    "absurd length": (lambda copy: rewrite_config(copy, max_length=10**12), r"reads rows of \(6,\)"),
    "absurd count": (lambda copy: rewrite_config(copy, items=10**12), "30 rows for 1000000000000 items"),
    "no count": (lambda copy: rewrite_config(copy, items="30"), '`shapes.items` is "30"'),
    "negative": (lambda copy: rewrite_config(copy, d=-1), "`shapes.d` is -1"),
}


@pytest.mark.parametrize("case", RESEALED)
def test_what_was_sealed_but_cannot_be_served_is_one_line(copy: Path, case: str) -> None:
    change, expected = RESEALED[case]
    change(copy)
    seal(copy)
    with pytest.raises(DataError, match=expected) as caught:
        Bundle.open(copy)
    assert "\n" not in str(caught.value)


def test_no_path_of_the_machine_and_no_pickle_is_in_a_bundle(copy: Path, tiny: Any) -> None:
    suffixes = {path.suffix for path in copy.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".parquet", ".safetensors", ".onnx", ".py"}
    for path in copy.rglob("*.*"):
        for secret in (b"site-packages", str(tiny.folder).encode(), str(Path.home()).encode() + b"/"):
            assert secret not in path.read_bytes() if path.is_file() else True, path


@pytest.mark.parametrize("said", [None, "the first of repeats kept", ["keep"]])
@pytest.mark.parametrize("section", ["protocol", "teacher"])
def test_a_section_that_is_none_is_one_line_and_one_that_lacks_is_of_before(
    copy: Path, section: str, said: Any
) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {section: said}))
    seal(copy)
    with pytest.raises(DataError, match=rf"config\.json is not a bundle's: `{section}` is .*Export the model again"):
        Bundle.open(copy)
    (copy / "config.json").write_text(json.dumps({name: of for name, of in config.items() if name != section}))
    seal(copy)
    assert (Bundle.open(copy).repeats, Bundle.open(copy).teacher) == (False, "sasrec")
