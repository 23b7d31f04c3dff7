"""A hub model at its commit, from a server on this machine that speaks the hub's protocol."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

REVISION = "0123456789abcdef0123456789abcdef01234567"
CODE = """
import sys
from pathlib import Path
from llmsrec.errors import DataError
from llmsrec.engine import backbone
try:
    if sys.argv[1] == "describe":
        backbone.describe("owner/tiny", sys.argv[3], Path("/"), Path(sys.argv[2]))
    else:
        print("width", backbone.load(Path(sys.argv[2])).width)
except DataError as error:
    sys.exit(f"DataError: {error}")
"""


@pytest.fixture
def endpoint(backbone_folder: Path) -> Iterator[str]:
    files = {path.name: path.read_bytes() for path in backbone_folder.iterdir() if path.name != "backbone.json"}
    files["pytorch_model.bin"] = b"a pickle"

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            name = path.rsplit("/", 1)[-1]
            if path == f"/api/models/owner/tiny/tree/{REVISION}":
                tree = [{"type": "file", "path": n, "size": len(b), "oid": REVISION} for n, b in files.items()]
                self.answer(200, json.dumps(tree).encode(), **{"Content-Type": "application/json"})
            elif path.startswith(f"/owner/tiny/resolve/{REVISION}/") and name in files:
                self.answer(200, files[name])
            else:
                known = REVISION in path
                self.answer(404, b"", **{"X-Error-Code": "EntryNotFound" if known else "RevisionNotFound"})

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run(endpoint: str, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", CODE, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_hub_model_is_fetched_once_and_kept_by_reference(endpoint: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(endpoint, tmp_path / "cache", "describe", str(out), REVISION)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "backbone.json").read_text()) == {
        "kind": "hub", "model": "owner/tiny", "revision": REVISION, "limit": 2048,
    }  # fmt: skip
    fetched = {path.name for path in (tmp_path / "cache").rglob("snapshots/*/*")}
    assert "model.safetensors" in fetched
    assert "pytorch_model.bin" not in fetched, "no pickle is fetched"
    done = run(endpoint, tmp_path / "cache", "load", str(out), REVISION)
    assert "width 16" in done.stdout, done.stderr


def test_a_commit_that_the_hub_does_not_have(endpoint: str, tmp_path: Path) -> None:
    done = run(endpoint, tmp_path / "cache", "describe", str(tmp_path / "out"), "f" * 40)
    assert done.returncode == 1
    assert "DataError: the backbone owner/tiny at ffff" in done.stderr
    assert endpoint in done.stderr
    assert not (tmp_path / "out/backbone.json").exists()
