"""`llmsrec serve` as the image `serve` holds it, without torch, beside one with torch: size, start, memory, answers.

    python -m benchmarks.without_torch --venv FOLDER [--bundle models/bundle] [--rounds 3]

FOLDER gets a virtual environment with docker/requirements-serve.txt and nothing else, unless it is one already. Both
services get their version from one MLflow server, in turn, and answer the same requests; `docker/serve.py` starts them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from benchmarks import common
from benchmarks.service import NAME, bodies, descendants, registered, running
from llmsrec.service.memory import resident

ROOT = Path(__file__).resolve().parents[1]
TOWERS = ("llm", "blend", "cf", "teacher")
ASKED = 64  # histories of each tower, before memory is looked at
MB = 2**20


def environment(folder: Path) -> Path:
    """The Python of a virtual environment that holds what the image `serve` holds."""
    python = folder / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        wanted = ["-c", str(ROOT / "requirements.txt"), "-r", str(ROOT / "docker/requirements-serve.txt")]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *wanted], check=True)
    missing = subprocess.run([str(python), "-c", "import torch"], capture_output=True, check=False)
    assert missing.returncode, f"{folder} holds torch"
    return python


def ask(port: int, path: str, body: bytes | None = None) -> Any:
    with urlopen(Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"})) as response:
        return json.load(response)


def answers(port: int, bundle: Path) -> list[Any]:
    """Of each tower to some histories, then of `/similar` to a title."""
    made = [ask(port, "/invocations", body) for tower in TOWERS for body in bodies(bundle, tower)[:ASKED]]
    return [*made, ask(port, "/similar", json.dumps({"title": "Gentle soap with rose oil", "k": 10}).encode())]


def compare(ours: list[Any], theirs: list[Any]) -> str:
    """How many answers hold the same items in the same order, and how far scores are apart."""
    lists = [[pair[0]["items"], pair[1]["items"]] for pair in zip(_single(ours), _single(theirs), strict=True)]
    alike = sum([i["parent_asin"] for i in one] == [i["parent_asin"] for i in two] for one, two in lists)
    apart = max(abs(i["score"] - j["score"]) for one, two in lists for i, j in zip(one, two, strict=True))
    return (
        f"{alike} of {len(lists)} answers hold the same items in the same order; scores differ by at most {apart:.1e}"
    )


def _single(bodies: list[Any]) -> list[Any]:
    return [answer for body in bodies for answer in body.get("predictions", [body])]


def main() -> None:
    parser = argparse.ArgumentParser(description="llmsrec serve without torch beside one with it.")
    parser.add_argument("--venv", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=Path("models/bundle"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(common.machine())
    sides = {"without torch": (environment(options.venv), []), "with torch": (Path(sys.executable), ["--torch"])}
    for name, (python, _) in sides.items():
        size = subprocess.run(
            ["du", "-sLm", str(python.parents[1] / "lib")], capture_output=True, text=True, check=True
        )
        print(f"packages {name}, MB: {int(size.stdout.split()[0]):,}")
    figures: dict[str, list[float]] = {}
    given: dict[str, list[Any]] = {}
    serve = str(ROOT / "docker/serve.py"), "--drain", "0"
    with tempfile.TemporaryDirectory() as folder, registered(options.bundle, Path(folder), 1):
        place = Path(folder)
        store = ["--backend-store-uri", f"sqlite:///{place}/mlruns/mlflow.db", "--workers", "1"]
        with running([sys.executable, "-m", "mlflow", "server", *store], place, "/health") as server:
            variables = {
                "MODEL_URI": f"models:/{NAME}@staging",
                "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{server.port}",
                "PYTHONPATH": str(ROOT / "src"),
            }
            for _ in range(options.rounds):
                for name, (python, flags) in sides.items():
                    began = time.monotonic()
                    with running([str(python), *serve, *flags], place, **variables) as service:
                        figures.setdefault(f"{name}: ready, s", []).append(time.monotonic() - began)
                        given[name] = answers(service.port, options.bundle)
                        held = [resident(pid) / MB for pid in descendants(service.pid)]
                        figures.setdefault(f"{name}: memory of all processes, MB", []).append(sum(held))
                        figures.setdefault(f"{name}: of the language model's, MB", []).append(max(held))
    common.show(figures)
    print(compare(*given.values()))


if __name__ == "__main__":
    main()
