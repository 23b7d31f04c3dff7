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
from urllib.request import Request, urlopen

import pytest
from mlflow import MlflowClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.service import descendants
from llmsrec.registry import tracking
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import parse, parse_rank, parse_similar
from tests.answers import assert_same_answer
from tests.servers import free_port, until_up

ROOT = Path(__file__).resolve().parents[2]
SERVE = ["docker/requirements-serve.txt"]
WITH_TORCH = [*SERVE, "requirements-torch.txt", "docker/requirements-serve-torch.txt"]
START, DAY = 1_391_040_000_000, 86_400_000  # ms
IMAGES = pytest.mark.parametrize("files", [SERVE, WITH_TORCH], ids=["serve", "serve-torch"])


def listed(*files: str) -> list[Requirement]:
    lines = [line for file in files for line in (ROOT / file).read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def installed_by(files: list[str]) -> set[str]:
    """Names of the distributions that pip brings for requirements files, followed through what is installed here."""
    packages: set[str] = set()
    queue = [canonicalize_name(requirement.name) for requirement in listed(*files)]
    while queue:
        name = queue.pop()
        if name not in packages:
            packages.add(name)
            needed = [Requirement(text) for text in requires(name) or []]
            queue += [canonicalize_name(r.name) for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    return packages


@IMAGES
def test_every_package_of_a_serving_image_is_pinned(files: list[str]) -> None:
    pins = listed("requirements.txt", "requirements-torch.txt")
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    assert installed_by(files) <= {canonicalize_name(pin.name) for pin in pins}


def test_serve_holds_no_torch_and_no_pipeline() -> None:
    held = installed_by(SERVE)
    assert "onnxruntime" in held
    assert not held & {"torch", "transformers", "peft", "dvc", "great-expectations", "optuna", "matplotlib", "pyarrow"}


MAIN = """
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
    history = [{"parent_asin": f"B{item}", "timestamp": START + item * DAY} for item in (3, 1, 4)]
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
    assert_same_answer(llm, expected[2])


def test_the_serving_image_answers_for_all_towers_without_torch(registry: Any, tmp_path: Path) -> None:
    site, log = environment(tmp_path / "site", installed_by(SERVE)), tmp_path / "log"
    assert "COPY src/llmsrec llmsrec" in (ROOT / "Dockerfile").read_text()
    port = free_port()
    with log.open("w") as output:
        service = subprocess.Popen(
            # The registry is a file here, and no image has what a database needs; -S: not what is installed here.
            [sys.executable, "-S", "-c", MAIN, "--drain", "0"],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"], "PYTHONPATH": f"{site}:{ROOT / 'docker'}:{ROOT / 'src'}", "PORT": str(port),
                "MODEL_URI": "models:/llm-srec@candidate", "OMP_NUM_THREADS": "1",
                "STORED": str(tracking.bundle_of("models:/llm-srec@candidate", registry.root).parents[1]),
                "TAGS": json.dumps(MlflowClient(registry.uri).get_model_version("llm-srec", "1").tags),
            },
            stdout=output, stderr=output,
        )  # fmt: skip

    def asked(path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(f"http://127.0.0.1:{port}{path}", data, headers), timeout=60) as response:
            return json.load(response)

    history = [{"parent_asin": f"B{item}", "timestamp": START + item * DAY} for item in (3, 1, 4)]
    requests = [{"history": history, "k": 3, "tower": tower} for tower in ("llm", "blend", "cf", "teacher")]
    titled, ranked = {"title": "A bottle of rose oil", "k": 3}, {"history": history, "candidates": ["B7", "B9", "B2"]}
    torchs = Recommender.load(registry.bundle)
    try:
        until_up(f"http://127.0.0.1:{port}/readyz", service, log)
        assert asked("/readyz")["runtime"] == "onnx"
        answers = asked("/invocations", {"inputs": requests})["predictions"]
        for answer, right in zip(answers, torchs.recommend(parse(requests)), strict=True):
            assert_same_answer(right.model_dump() | answer, right.model_dump())
        similar = asked("/similar", titled)["items"]
        theirs = torchs.similar(parse_similar(titled)).items
        assert [item["parent_asin"] for item in similar] == [item.parent_asin for item in theirs]
        (right,) = torchs.recommend([parse_rank(ranked)])
        actual = asked("/rank", ranked)["items"]
        assert [item["parent_asin"] for item in actual] == [item.parent_asin for item in right.items]
        for pid in descendants(service.pid):
            assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
    finally:
        service.terminate()
    assert service.wait(timeout=60) == 0, log.read_text()


def tool(name: str) -> str:
    """A linter that requirements.txt pins; it is one binary in the folder of Python itself."""
    executable = shutil.which(name, path=str(Path(sys.executable).parent))
    assert executable, f"{name} is not installed; `make setup`"
    return executable


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
