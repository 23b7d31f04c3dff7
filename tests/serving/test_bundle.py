import json
import shutil
from pathlib import Path
from typing import Any

import pytest

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


def test_bytecode_that_python_leaves_beside_the_code_is_no_alteration(copy: Path) -> None:
    (copy / "code/llmsrec/__pycache__").mkdir()
    (copy / "code/llmsrec/__pycache__/files.cpython-311.pyc").write_bytes(b"x")
    Bundle.open(copy)


def test_no_path_of_the_machine_and_no_pickle_is_in_a_bundle(copy: Path, tiny: Any) -> None:
    suffixes = {path.suffix for path in copy.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".parquet", ".safetensors", ".onnx", ".py"}
    for path in copy.rglob("*.*"):
        for secret in (b"site-packages", str(tiny.folder).encode(), str(Path.home()).encode() + b"/"):
            assert secret not in path.read_bytes() if path.is_file() else True, path
