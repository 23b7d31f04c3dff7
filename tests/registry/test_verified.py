"""What is run of a version is what was registered: real registries, whose files somebody else changes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from llmsrec.errors import DataError, RequestError
from llmsrec.experiments import compare
from llmsrec.files import tree
from llmsrec.registry import tracking
from llmsrec.registry.verified import MODEL, check, digest, named, verified
from llmsrec.serving.bundle import seal

PLANTED = 'from pathlib import Path\nPath("{}").write_text("planted code ran")\n'


@pytest.fixture
def client(registry: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    yield MlflowClient(registry.uri)


@pytest.fixture
def version(client: MlflowClient) -> ModelVersion:
    return named(client, "models:/llm-srec@candidate")


@pytest.fixture
def stored(client: MlflowClient, version: ModelVersion, tmp_path: Path) -> Iterator[Path]:
    """The version's folder in the store, which a test may change; afterwards it is as it was."""
    folder = Path(urlsplit(client.get_logged_model(version.source.removeprefix("models:/")).artifact_location).path)
    kept = shutil.copytree(folder, tmp_path / "kept")
    yield folder
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)


def append(name: str, text: bytes = b"\n") -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + text)


def add(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(b"x")

    return change


def link(name: str) -> Callable[[Path], None]:
    """The same contents, elsewhere: today nothing differs."""

    def change(folder: Path) -> None:
        elsewhere = folder.parent / f"elsewhere {Path(name).name}"
        (folder / name).rename(elsewhere)
        (folder / name).symlink_to(elsewhere)

    return change


def reseal(folder: Path) -> None:
    append("artifacts/bundle/parity.json")(folder)
    seal(folder / "artifacts/bundle")


def reseal_code(folder: Path) -> None:
    """Whoever can write there makes all of it agree with itself."""
    for name in ("code/llmsrec/serving/towers.py", "artifacts/bundle/code/llmsrec/serving/towers.py"):
        append(name)(folder)
    seal(folder / "artifacts/bundle")


TAMPERED = {
    "an altered file of the bundle": (append("artifacts/bundle/items.parquet"), "items.parquet is not the file"),
    "a sealed bundle, altered": (reseal, "not .* that was registered"),
    "altered code, sealed": (reseal_code, "not .* that was registered"),
    "altered pyfunc.py": (append("pyfunc.py"), "pyfunc.py, which MLflow runs, is not the code in the bundle"),
    "altered code": (append("code/llmsrec/serving/towers.py"), "code/llmsrec/serving/towers.py, which MLflow runs"),
    "a module more": (add("code/numpy/__init__.py"), "code/numpy/__init__.py, which MLflow runs"),
    "an extension": (add("code/llmsrec/files.abi3.so"), "code/llmsrec/files.abi3.so, which MLflow runs"),
    "an altered MLmodel": (append("MLmodel"), "MLmodel, requirements, examples"),
    "a file more": (add("sitecustomize.py"), "MLmodel, requirements, examples"),
    "bytecode in the bundle": (add("artifacts/bundle/code/llmsrec/__pycache__/files.cpython-311.pyc"), "is bytecode"),
    "bytecode of the code": (add("code/llmsrec/__pycache__/files.cpython-311.pyc"), "is bytecode"),
    "bytecode of pyfunc.py": (add("__pycache__/pyfunc.cpython-311.pyc"), "is bytecode"),
    "a linked file": (link("artifacts/bundle/items.parquet"), "items.parquet is a link"),
    "a linked folder": (link("code"), "code is a link"),
    "a linked MLmodel": (link("MLmodel"), "MLmodel is a link"),
    "a link in place of MLflow's note": (lambda folder: (folder / "registered_model_meta").unlink(missing_ok=True)
        or (folder / "registered_model_meta").symlink_to("MLmodel"), "registered_model_meta is a link"),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
def test_a_store_that_was_changed_is_noticed_before_anything_is_run(
    client: MlflowClient, version: ModelVersion, stored: Path, registry: Any, tmp_path: Path, case: str
) -> None:
    change, expected = TAMPERED[case]
    change(stored)
    for into in (None, tmp_path / "copy"):
        with pytest.raises(DataError, match=f"llm-srec version 1 is not what was registered.*{expected}") as caught:
            verified(client, version, into)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=expected):
        tracking.bundle_of("models:/llm-srec@candidate", registry.root)


def test_what_was_registered_passes_and_a_copy_is_what_it_was_copied_from(
    client: MlflowClient, version: ModelVersion, stored: Path, tmp_path: Path
) -> None:
    assert verified(client, version) == stored
    copy = verified(client, version, tmp_path / "copy")
    assert tree(copy) == tree(stored)
    assert digest(copy) == version.tags[MODEL] == client.get_logged_model(stored.parent.name).tags[MODEL]


def test_a_version_without_its_digest_on_record_is_refused_and_registered_again_as_another(
    client: MlflowClient, registry: Any, tmp_path: Path
) -> None:
    experiment = client.get_experiment_by_name("llm-srec").experiment_id
    with tracking.connected(registry.root) as connected:
        arguments = (connected, experiment, registry.run_id, "older", registry.bundle, {})
        first = tracking.ensure_version(*arguments)
        client.delete_model_version_tag("older", str(first), MODEL)
        with pytest.raises(DataError, match=r"older version 1 has no tag model_sha256.*dvc repro -f -s register"):
            verified(client, client.get_model_version("older", str(first)))
        second = tracking.ensure_version(*arguments)
        assert (first, second, tracking.ensure_version(*arguments)) == (1, 2, 2)
    verified(client, client.get_model_version("older", "2"))


@pytest.mark.parametrize("uri", ["models:/m-0123", "runs:/1/bundle", "/tmp", "models:/llm-srec", ""])
def test_what_names_no_version_is_one_line(client: MlflowClient, uri: str) -> None:
    with pytest.raises(RequestError, match="names no version; a version is named by its number or an alias"):
        named(client, uri)


def test_loading_a_version_where_it_is_stored_leaves_it_as_it_was_registered(
    client: MlflowClient, version: ModelVersion, stored: Path, registry: Any
) -> None:
    """In a process of its own: this one has llmsrec already, and would not import the version's."""
    script = (
        "from mlflow import pyfunc; m = pyfunc.load_model('models:/llm-srec/1'); "
        f"import llmsrec; assert llmsrec.__file__.startswith({str(stored)!r})"
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": registry.uri}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True)
    assert verified(client, version) == stored


def test_a_sealed_bundle_that_is_not_the_registered_one_is_refused_without_the_registry(
    client: MlflowClient, stored: Path
) -> None:
    reseal(stored)
    with pytest.raises(Exception, match=r"is the bundle .*, not .* that was registered"):
        mlflow.pyfunc.load_model(str(stored))


def test_the_probe_runs_sources_even_where_bytecode_lies_beside_them(tiny: Any, tmp_path: Path) -> None:
    """As in a race: the files were right when they were verified."""
    ran, bundle = tmp_path / "ran", Path(shutil.copytree(tiny.bundle, tmp_path / "bundle"))
    source = bundle / "code/llmsrec/errors.py"
    kept, times = source.read_bytes(), source.stat()
    source.write_text(PLANTED.format(ran) + "#" * (len(kept) - len(PLANTED.format(ran))))
    assert source.stat().st_size == len(kept)
    os.utime(source, (times.st_atime, times.st_mtime))
    subprocess.run([sys.executable, "-m", "py_compile", source], check=True)
    source.write_bytes(kept)
    os.utime(source, (times.st_atime, times.st_mtime))
    assert Path(cache_from_source(str(source))).is_file()
    path = f"import sys; sys.path.insert(0, {str(bundle / 'code')!r}); import llmsrec.errors"
    subprocess.run([sys.executable, "-B", "-c", path], check=True)
    assert ran.exists(), "what was planted is what Python runs"
    ran.unlink()

    from llmsrec.export import probe

    done = subprocess.run(
        [sys.executable, "-I", "-B", probe.__file__, bundle, "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not ran.exists()


def test_comparing_runs_nothing_that_was_not_registered(
    client: MlflowClient, version: ModelVersion, stored: Path
) -> None:
    append("pyfunc.py")(stored)
    tried = compare._try(compare.Model(stored, "llm-srec/1", version.tags), 1)
    assert "pyfunc.py, which MLflow runs" in str(tried.problem)
    assert "has no tag" in str(compare._try(compare.Model(stored, "llm-srec/1", {}), 1).problem)
    with pytest.raises(DataError):
        check("llm-srec/1", stored, version.tags)
