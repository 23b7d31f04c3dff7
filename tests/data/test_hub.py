"""Download from a server on this machine that speaks the hub's protocol, and that can break off or lie."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import pytest
from huggingface_hub.constants import DOWNLOAD_CHUNK_SIZE

from llmsrec.data import hub
from llmsrec.errors import DataError

REVISION = "0123456789abcdef0123456789abcdef01234567"
SOURCE = {"repository": "McAuley-Lab/Amazon-Reviews-2023", "categories": ["All_Beauty", "Video_Games", "Books"]}
REVIEWS = b'{"user_id": "u"}\n' * 700_000  # more than the library takes at once
ITEMS = b'{"parent_asin": "i"}\n'
FILES = {
    f"/datasets/{SOURCE['repository']}/resolve/{REVISION}/raw/{path}": content
    for path, content in (
        ("review_categories/Video_Games.jsonl", REVIEWS),
        ("meta_categories/meta_Video_Games.jsonl", ITEMS),
        ("review_categories/Books.jsonl", REVIEWS),
    )
}


@dataclass
class Hub:
    """What the server saw, and what it does wrong."""

    url: str = ""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, file, Range
    break_after: int | None = None  # the next answer ends after so many bytes
    stall: bool = False  # it stops there, but the connection stays
    content: bytes | None = None  # what is sent in place of the file

    def ranges(self, name: str) -> list[str | None]:
        return [wanted for method, path, wanted in self.requests if (method, path) == ("GET", name)]


@pytest.fixture
def server() -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(send=False)

        def do_GET(self) -> None:
            self.answer(send=True)

        def answer(self, send: bool) -> None:
            wanted = self.headers.get("Range")
            state.requests.append((self.command, self.path.rsplit("/", 1)[-1], wanted))
            content = FILES.get(self.path)
            if content is None:
                self.send_response(404)
                known = REVISION in self.path
                self.send_header("X-Error-Code", "EntryNotFound" if known else "RevisionNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            digest = hashlib.sha256(content).hexdigest()
            size, body = len(content), state.content or content
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
            self.send_response(206 if wanted else 200)
            self.send_header("ETag", f'"{digest}"')
            self.send_header("X-Linked-Etag", f'"{digest}"')
            self.send_header("X-Linked-Size", str(size))
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(size - start))
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.end_headers()
            if not send:
                return
            if state.break_after is None:
                self.wfile.write(body[start:])
                return
            self.wfile.write(body[start : start + state.break_after])
            self.wfile.flush()
            state.break_after = None
            if state.stall:
                sleep(10)
            self.connection.close()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    yield state
    server.shutdown()
    server.server_close()


CODE = """
import json, sys
from pathlib import Path
from llmsrec.data import hub
from llmsrec.errors import DataError
source, category, revision, cache = json.loads(sys.argv[1])
try:
    print(*hub.download(source, category, revision, Path(cache)), sep="\\n")
except DataError as error:
    sys.exit(f"DataError: {error}")
"""


def start(url: str, cache: Path, category: str = "Video_Games", revision: str = REVISION) -> subprocess.Popen[str]:
    """`hub.download` in a process of its own: HF_ENDPOINT is read when the library is imported."""
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache / "home")}
    command = [sys.executable, "-c", CODE, json.dumps([SOURCE, category, revision, str(cache)])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@dataclass
class Done:
    """How a process ended."""

    returncode: int
    stdout: str
    stderr: str


def fetch(*arguments: Any, **settings: Any) -> Done:
    """`start`, to its end."""
    process = start(*arguments, **settings)
    stdout, stderr = process.communicate()
    return Done(process.returncode, stdout, stderr)


def test_files_arrive_and_are_kept(server, tmp_path):
    done = fetch(server.url, tmp_path)
    assert done.returncode == 0, done.stderr
    reviews, items = map(Path, done.stdout.splitlines())
    assert reviews == tmp_path / REVISION / "Video_Games.jsonl"
    assert reviews.read_bytes() == REVIEWS
    assert items.read_bytes() == ITEMS
    assert [method for method, name, _ in server.requests if name.endswith("jsonl")] == ["HEAD", "GET"] * 2
    server.requests.clear()
    assert fetch("http://127.0.0.1:9", tmp_path).stdout == done.stdout  # what is there needs no server
    assert server.requests == []


def test_broken_connection_resumes(server, tmp_path):
    server.break_after = len(REVIEWS) - 1000
    done = fetch(server.url, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / REVISION / "Video_Games.jsonl").read_bytes() == REVIEWS
    assert server.ranges("Video_Games.jsonl") == [None, f"bytes={DOWNLOAD_CHUNK_SIZE}-"]


def test_killed_download_goes_on_in_the_next_run(server, tmp_path):
    server.break_after = len(REVIEWS) - 1000
    server.stall = True
    process = start(server.url, tmp_path)
    part = tmp_path / REVISION / "Video_Games.part"
    while not (part.exists() and part.stat().st_size == DOWNLOAD_CHUNK_SIZE):
        sleep(0.05)
        assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()
    server.requests.clear()
    assert fetch(server.url, tmp_path).returncode == 0
    assert (tmp_path / REVISION / "Video_Games.jsonl").read_bytes() == REVIEWS
    assert server.ranges("Video_Games.jsonl") == [f"bytes={DOWNLOAD_CHUNK_SIZE}-"]
    assert not part.exists()


def test_other_content_is_refused_and_removed(server, tmp_path):
    server.content = REVIEWS.replace(b"u", b"v")
    done = fetch(server.url, tmp_path)
    assert done.returncode == 1
    assert "sha256 differs" in done.stderr
    assert not list(tmp_path.rglob("*.jsonl")) + list(tmp_path.rglob("*.part"))
    server.content = None
    assert fetch(server.url, tmp_path).returncode == 0


def test_unknown_revision_and_missing_file(server, tmp_path):
    done = fetch(server.url, tmp_path, revision="f" * 40)
    assert f"DataError: {server.url} has no raw/review_categories/Video_Games.jsonl" in done.stderr
    assert f"at data.revision {'f' * 40}; check data.revision" in done.stderr
    done = fetch(server.url, tmp_path, category="Books")
    assert "has no raw/meta_categories/meta_Books.jsonl" in done.stderr


def test_no_server(tmp_path):
    done = fetch("http://127.0.0.1:9", tmp_path)
    assert done.returncode == 1
    assert "could not be fetched from http://127.0.0.1:9" in done.stderr
    assert "set data.source=files" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("category", "near"), [("All_beauty", "All_Beauty"), ("VideoGame", "Video_Games"), ("Sample", "All_Beauty")]
)
def test_unknown_category_names_the_nearest(tmp_path, category, near):
    with pytest.raises(DataError, match=f"{category} is not a category .* the nearest is {near}.*Books"):
        hub.download(SOURCE, category, REVISION, tmp_path)


def test_the_committed_list_of_categories():
    """34, as the data set's own all_categories.txt, whose size is known: 585 bytes."""
    source = json.loads((Path(__file__).parents[2] / "stages/sources/hub.json").read_text())
    assert source["repository"] == SOURCE["repository"]
    assert len(source["categories"]) == len(set(source["categories"])) == 34
    assert sum(len(name) + 1 for name in source["categories"]) == 585
    assert {"Movies_and_TV", "Industrial_and_Scientific", "Electronics", "CDs_and_Vinyl"} <= set(source["categories"])
