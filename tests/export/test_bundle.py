import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from llmsrec.engine.backbone_files import read_files
from llmsrec.errors import DataError
from llmsrec.export import bundle
from llmsrec.files import read_json, sha256, write_json
from llmsrec.serving.bundle import verify
from llmsrec.serving.schema import TOWERS


def write(tiny: Any, folder: Path, tolerance: float = 1e-4) -> str:
    backbone = tiny.folder / "models/backbone"
    return bundle.write(folder, tiny.model, tiny.config, tiny.catalogue, backbone, tiny.sequences, 40, tolerance)


def test_the_same_checkpoint_gives_the_same_bundle(tiny: Any, tmp_path: Path) -> None:
    assert write(tiny, tmp_path / "again") == verify(tiny.bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_a_bundle_that_does_not_agree_is_not_written_and_the_old_one_stays(tiny: Any, tmp_path: Path) -> None:
    shutil.copytree(tiny.bundle, tmp_path / "bundle")
    with pytest.raises(DataError, match=r"f_item: torch and ONNX Runtime differ by .* export.tolerance 1e-12"):
        write(tiny, tmp_path / "bundle", tolerance=1e-12)
    assert verify(tmp_path / "bundle") == verify(tiny.bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_parity_is_written_down(tiny: Any, tiny_lora: Any) -> None:
    parity = read_json(tiny.bundle / "parity.json")
    assert set(parity["largest_difference"]) == {"f_item", "f_user", "f_cf_user", "f_I", "sasrec"}
    assert max(parity["largest_difference"].values()) < 1e-5
    assert {tower: top["same"] for tower, top in parity["top_10"].items()} == dict.fromkeys(TOWERS, 40)
    assert "f_U" in read_json(tiny_lora.bundle / "parity.json")["largest_difference"]


def test_vectors_and_catalogue_are_the_models(tiny: Any) -> None:
    tensors = load_file(tiny.bundle / "vectors.safetensors")
    np.testing.assert_allclose(tensors["item_vectors"], tiny.model.item_vectors().numpy(), atol=1e-5)
    assert (tensors["item_vectors"].dtype, tensors["item_vectors"].shape) == (np.float32, (31, 16))
    np.testing.assert_array_equal(tensors["item_embeddings"], tiny.model.teacher.item_vectors().detach().numpy())
    np.testing.assert_array_equal(tensors["user_out"], tiny.model.user_out.detach().numpy())
    assert pl.read_parquet(tiny.bundle / "items.parquet").equals(tiny.catalogue)
    shapes = json.loads((tiny.bundle / "config.json").read_text())["shapes"]
    assert shapes == {"items": 30, "max_length": 6, "d": 16, "d_llm": 32, "d_prime": 16}


def test_an_embedded_and_a_local_backbone_travel_with_the_bundle(tiny: Any, tiny_lora: Any) -> None:
    for built, source in ((tiny, "models/backbone"), (tiny_lora, "llm")):
        weights = "model.safetensors"
        assert sha256(built.bundle / "backbone" / weights) == sha256(built.folder / source / weights)
        assert read_json(built.bundle / "backbone/backbone.json")["kind"] == "embedded"
        taken = {path.name for path in (built.bundle / "backbone").iterdir()}
        assert taken == {*read_files(built.folder / source), "backbone.json"}, "what is read, and nothing else"
    assert len(load_file(tiny_lora.bundle / "adapter.safetensors")) > 0
    assert not (tiny.bundle / "adapter.safetensors").exists()


def test_a_hub_backbone_is_a_reference(tiny: Any, tmp_path: Path) -> None:
    reference = {"kind": "hub", "model": "owner/name", "revision": "0" * 40}
    write_json(tmp_path / "backbone.json", reference)
    (tmp_path / "model.safetensors").write_bytes(b"not to be taken along")
    bundle._write_backbone(tmp_path / "bundle", tiny.model, tmp_path)
    assert [path.name for path in (tmp_path / "bundle").rglob("*") if path.is_file()] == ["backbone.json"]
    assert read_json(tmp_path / "bundle/backbone/backbone.json") == reference
