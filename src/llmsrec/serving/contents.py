"""What the files of a bundle hold: finite numbers that fit together, or one line that says what does not.

A manifest proves that nobody altered a file since it was sealed, not that what was sealed can be served.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from llmsrec.errors import DataError, shown

if TYPE_CHECKING:
    from llmsrec.serving.bundle import Bundle, Model

COLUMNS = {"item_id": pl.Int64, "parent_asin": pl.String, "title": pl.String, "count": pl.Int64}
ITEM_TABLES = ("item_vectors", "item_embeddings")  # tensors of a row an item; there may be an index of each
CATALOGUE = {"store": pl.String(), "categories": pl.List(pl.String)}  # behind these; bundles from before lack both
SHAPES = ("items", "max_length", "d")
HEADS = ("d_llm", "d_prime")  # shapes of what is behind a backbone
ALONE = ["teacher"]  # the one list of towers that config.json may hold; a bundle with all of them holds none
BLEND = {"weight", "llm", "teacher"}  # numbers of config.json's `blend`
ROWS = 256  # of a batch, while a model is tried on every item
REMEDY = "Export the model again (`dvc repro export`), and do not serve this bundle."


def check(bundle: "Bundle") -> None:
    """Try a bundle's catalogue, vectors and ONNX models on each item that a request may name.

    Raises:
        DataError: a section of config.json is missing, items are not 1..I with an asin and a title each, a shape is
            another than config.json says, or a number is NaN or infinite, in the vectors or in what a model answers.
    """
    shapes = _shapes(bundle)
    _check_items(bundle, shapes["items"])
    _check_tensors(bundle, shapes)
    _check_models(bundle, shapes)


def _shapes(bundle: "Bundle") -> dict[str, int]:
    config = bundle.config
    alone = "towers" in config
    if alone and config["towers"] != ALONE:
        raise _error(bundle, "config.json", f"`towers` is {shown(config['towers'])}, not {ALONE}")
    of_llm = {} if alone else {"backbone": dict, "prompts": dict, "distilled": bool}
    for name, kind in ({"shapes": dict} | of_llm).items():
        if not isinstance(config.get(name), kind):
            raise _error(bundle, "config.json", f"`{name}` is {shown(config.get(name))}")
    for name in ("protocol", "teacher"):  # bundles from before lack them, or keys of theirs
        if not isinstance(config.get(name, {}), dict):
            raise _error(bundle, "config.json", f"`{name}` is {shown(config[name])}")
    if "blend" in config:
        blend = config["blend"]
        if not isinstance(blend, dict) or {*blend} != BLEND or not all(map(_is_share, blend.values())):
            raise _error(bundle, "config.json", f"`blend` is {shown(blend)}, not {', '.join(sorted(BLEND))} from 0 on")
    shapes: dict[str, int] = config["shapes"]
    for name in SHAPES if alone else (*SHAPES, *HEADS):
        value = shapes.get(name)
        if type(value) is not int or value < 1:
            raise _error(bundle, "config.json", f"`shapes.{name}` is {shown(value)}, not a number of one or more")
    trained = shapes.get("trained", shapes["items"])  # fewer where items were added by title
    if type(trained) is not int or not 1 <= trained <= shapes["items"]:
        raise _error(bundle, "config.json", f"`shapes.trained` is {shown(trained)}, not 1 to {shapes['items']}")
    indexed = config.get("index", [])
    if not isinstance(indexed, list) or any(name not in ITEM_TABLES for name in indexed):
        raise _error(bundle, "config.json", f"`index` is {shown(indexed)}, not some of {', '.join(ITEM_TABLES)}")
    return shapes


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _check_items(bundle: "Bundle", count: int) -> None:
    items = bundle.items
    if [*items.columns] not in ([*COLUMNS], [*COLUMNS, *CATALOGUE]):
        expected = ", ".join([*COLUMNS, *CATALOGUE])
        raise _error(bundle, "items.parquet", f"its columns are {', '.join(items.columns)}, not {expected}")
    for name, listed in CATALOGUE.items():
        if name in items.columns and items[name].dtype != listed:
            raise _error(bundle, "items.parquet", f"`{name}` holds {items[name].dtype}, not {listed}")
    for name, kind in COLUMNS.items():
        column = items[name]
        if column.dtype.is_integer() != kind.is_integer() or (kind == pl.String and column.dtype != pl.String):
            raise _error(bundle, "items.parquet", f"`{name}` holds {column.dtype}, not {kind}")
        if column.null_count():
            raise _error(bundle, "items.parquet", f"{column.null_count()} rows have no {name}")
    if len(items) != count:
        raise _error(bundle, "items.parquet", f"it has {len(items)} rows for {count} items")
    if not np.array_equal(items["item_id"].to_numpy(), np.arange(1, count + 1)):
        raise _error(bundle, "items.parquet", f"its item ids are not 1 to {count} in this order")
    if items["parent_asin"].n_unique() != count:
        raise _error(bundle, "items.parquet", f"{count - items['parent_asin'].n_unique()} rows repeat a parent_asin")
    if (items["count"] < 0).any():
        raise _error(bundle, "items.parquet", "a count is below zero")


def _check_tensors(bundle: "Bundle", shapes: dict[str, int]) -> None:
    expected: dict[str, tuple[int, ...]] = {"item_embeddings": (shapes["items"] + 1, shapes["d"])}
    if bundle.reads_titles:
        expected |= {"title_projection": (shapes["d_llm"], shapes["d"]), "title_bias": (shapes["d"],)}
    if "llm" in bundle.towers:
        expected |= {
            "item_vectors": (shapes["items"] + 1, shapes["d_prime"]),
            "user_out": (shapes["d_llm"],),
            "item_out": (shapes["d_llm"],),
        }
    for name, shape in expected.items():
        values = bundle.tensors.get(name)
        if values is None or values.shape != shape or values.dtype != np.float32:
            said = "missing" if values is None else f"{values.dtype} of shape {values.shape}"
            raise _error(bundle, "vectors.safetensors", f"`{name}` is {said}, not float32 of shape {shape}")
        _check_finite(bundle, f"`{name}` of vectors.safetensors", values)


def _check_models(bundle: "Bundle", shapes: dict[str, int]) -> None:
    """NaN in an embedding of the teacher shows only where its item is asked for, so it reads all, row after row."""
    count, length, tensors, heads = shapes["items"], shapes["max_length"], bundle.tensors, "llm" in bundle.towers
    teacher = _model(bundle, bundle.teacher)
    if teacher.row != (length,):
        file = f"onnx/{bundle.teacher}.onnx"
        raise _error(bundle, file, f"it reads rows of {teacher.row}, `shapes.max_length` is {length}")
    ids = np.zeros(-(-count // length) * length, dtype=np.int64)
    ids[-count:] = np.arange(1, count + 1)
    for windows in _parts(ids.reshape(-1, length)):
        seen = _run(bundle, bundle.teacher, windows, shapes["d"])
        if heads:
            _run(bundle, "f_cf_user", seen, shapes["d_prime"])
        if heads and bundle.config["prompts"].get("user_representation"):
            _run(bundle, "f_U", seen, shapes["d_llm"])
    if not heads:
        return
    for embeddings in _parts(tensors["item_embeddings"]):
        _run(bundle, "f_I", embeddings, shapes["d_llm"])
    _run(bundle, "f_user", tensors["user_out"][None], shapes["d_prime"])
    _run(bundle, "f_item", tensors["item_out"][None], shapes["d_prime"])


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + ROWS] for start in range(0, len(rows), ROWS))


def _model(bundle: "Bundle", name: str) -> "Model":
    if name not in bundle.models:
        raise _error(bundle, f"onnx/{name}.onnx", "it is missing")
    return bundle.models[name]


def _run(bundle: "Bundle", name: str, batch: np.ndarray, width: int) -> np.ndarray:
    """What a model answers, `[B, width]` and finite."""
    file, model = f"onnx/{name}.onnx", _model(bundle, name)
    try:
        values = model(batch)
    except Exception as error:  # ONNX Runtime's errors have no class of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise _error(bundle, file, f"it cannot be run: {reason}") from error
    if values.shape != (len(batch), width):
        raise _error(bundle, file, f"it answers with shape {values.shape}, not {(len(batch), width)}")
    _check_finite(bundle, f"an answer of {file}", values)
    return values


def _check_finite(bundle: "Bundle", what: str, values: np.ndarray) -> None:
    wrong = np.count_nonzero(~np.isfinite(values))
    if wrong:
        raise DataError(f"{bundle.folder}: {wrong} of {values.size} numbers in {what} are NaN or infinite. {REMEDY}")


def _error(bundle: "Bundle", file: str, what: str) -> DataError:
    return DataError(f"{bundle.folder}: {file} is not a bundle's: {what}. {REMEDY}")
