"""The Dockerfile and compose.yaml without an engine: what they install, and whether their own tools accept them.

docker/check.py builds the images and runs them.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution, requires
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from llmsrec.registry import tracking
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import parse
from tests.answers import assert_same_answer
from tests.servers import free_port, until_up

ROOT = Path(__file__).resolve().parents[2]
CF = ["docker/requirements-serve-cf.txt"]
BOTH = [*CF, "requirements-torch.txt", "docker/requirements-serve.txt"]
IMAGES = pytest.mark.parametrize("files", [CF, BOTH], ids=["serve-cf", "serve"])


def listed(*files: str) -> list[Requirement]:
    lines = [line for file in files for line in (ROOT / file).read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def installed_by(files: list[str]) -> set[str]:
    """Names of the distributions that pip brings for requirements files, followed through what is installed here."""
    found: set[str] = set()
    queue = [canonicalize_name(requirement.name) for requirement in listed(*files)]
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            needed = [Requirement(text) for text in requires(name) or []]
            queue += [canonicalize_name(r.name) for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


@IMAGES
def test_every_package_of_a_serving_image_is_pinned(files: list[str]) -> None:
    pins = listed("requirements.txt", "requirements-torch.txt")
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    assert installed_by(files) <= {canonicalize_name(pin.name) for pin in pins}


def test_serve_cf_holds_no_torch_and_no_pipeline() -> None:
    held = installed_by(CF)
    assert "onnxruntime" in held
    assert not held & {"torch", "transformers", "peft", "dvc", "great-expectations", "optuna", "matplotlib", "pyarrow"}


SERVE = """
import json, os, shutil
from types import SimpleNamespace
import serve
from llmsrec.registry import verified

class Stored(serve.Registry):
    def version(self):
        return SimpleNamespace(name="llm-srec", number="1", alias="candidate", digest="0")

    def fetch(self, version, into):
        shutil.copytree(os.environ["STORED"], into, dirs_exist_ok=True)
        verified.check("llm-srec version 1", into, json.loads(os.environ["TAGS"]))
        return into / "artifacts/bundle"

serve.Registry = Stored
serve.main()
"""
ASK = """
import json, sys
from mlflow import pyfunc
from mlflow.exceptions import MlflowException
loaded = pyfunc.load_model(sys.argv[1])
for request in json.loads(sys.argv[2]):
    try:
        print(json.dumps(loaded.predict([request])[0].model_dump()))
    except MlflowException as error:
        print(json.dumps(error.message))
"""


def environment(folder: Path, names: set[str]) -> Path:
    """A folder for PYTHONPATH that holds these distributions and no others: links to what is installed here."""
    folder.mkdir()
    for name in names:
        installed = distribution(name)
        tops = {Path(str(file)).parts[0] for file in installed.files or []} - {"..", "__pycache__"}
        for top in tops:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(installed.locate_file(top))))
    return folder


@IMAGES
def test_what_a_serving_image_holds_is_enough(registry: Any, files: list[str], tmp_path: Path) -> None:
    model = tracking.bundle_of("models:/llm-srec@candidate", registry.root).parents[1]
    history = [
        {"parent_asin": asin, "timestamp": 1_391_040_000_000 + day * 86_400_000}
        for day, asin in enumerate(("B3", "B1", "B4"))
    ]
    requests = [{"history": history, "k": 3, "tower": tower} for tower in ("cf", "teacher", "llm")]
    done = subprocess.run(
        [sys.executable, "-S", "-c", ASK, str(model), json.dumps(requests)],  # -S: not what is installed here
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(environment(tmp_path / "site", installed_by(files))),
        },
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cf, teacher, llm = (json.loads(line) for line in done.stdout.splitlines())
    expected = [answer.model_dump() for answer in Recommender.load(registry.bundle).recommend(parse(requests))]
    assert_same_answer(cf, expected[0])
    assert_same_answer(teacher, expected[1])
    if files == BOTH:
        assert_same_answer(llm, expected[2])
    else:
        assert "torch is not installed where this model is served; ask for 'teacher'" in llm


def test_a_serving_image_serves_a_version_with_what_it_holds(registry: Any, tmp_path: Path) -> None:
    site, log = environment(tmp_path / "site", installed_by(CF)), tmp_path / "log"
    assert "COPY src/llmsrec llmsrec" in (ROOT / "Dockerfile").read_text()
    port = free_port()
    with log.open("w") as output:
        service = subprocess.Popen(
            # The registry is a file here, and no image has what a database needs; -S: not what is installed here.
            [sys.executable, "-S", "-c", SERVE, "--no-llm", "--drain", "0"],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"], "PYTHONPATH": f"{site}:{ROOT / 'docker'}:{ROOT / 'src'}", "PORT": str(port),
                "MODEL_URI": "models:/llm-srec@candidate",
                "STORED": str(tracking.bundle_of("models:/llm-srec@candidate", registry.root).parents[1]),
                "TAGS": json.dumps(MlflowClient(registry.uri).get_model_version("llm-srec", "1").tags),
            },
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        until_up(f"http://127.0.0.1:{port}/readyz", service, log)
    finally:
        service.terminate()
    assert service.wait(timeout=60) == 0, log.read_text()


def tool(name: str) -> str:
    """A linter that requirements.txt pins; it is one binary in the folder of Python itself."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found, f"{name} is not installed; `make setup`"
    return found


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = subprocess.run([tool("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_accepts_compose_yaml_and_asks_for_secrets() -> None:
    command = [tool("docker-compose"), "-f", str(ROOT / "compose.yaml")]
    accepted = [*command, "--env-file", str(ROOT / ".env.example"), "config", "--quiet"]
    assert subprocess.run(accepted, check=False).returncode == 0
    refused = [*command, "--env-file", os.devnull, "config", "--quiet"]
    done = subprocess.run(refused, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "POSTGRES_PASSWORD is missing a value: set it in .env" in done.stderr
