"""Connections and the files that a process may open."""

import json
import subprocess
import sys

import pytest

from llmsrec.service import open_files

CODE = """
import json, logging, resource
from llmsrec.errors import RequestError
from llmsrec.service import open_files
logging.basicConfig(format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
try:
    print(json.dumps([*open_files.connections(), resource.getrlimit(resource.RLIMIT_NOFILE)[0]]))
except RequestError as error:
    print(json.dumps(str(error)))
"""


def fitted(soft: int, hard: int) -> tuple[object, str]:
    """What a process of its own, with such limits, prints and logs."""
    ended = subprocess.run(
        [sys.executable, "-c", CODE.format(soft=soft, hard=hard)], capture_output=True, text=True, check=True
    )
    return json.loads(ended.stdout), ended.stderr.strip()


def test_the_soft_limit_is_raised_and_a_low_hard_one_is_one_line_and_fewer_connections() -> None:
    needed = open_files.crowd(open_files.CONNECTIONS) + open_files.BACKLOG + open_files.OTHERS
    assert fitted(300, needed) == ([open_files.CONNECTIONS, open_files.BACKLOG, needed], "")
    (connections, backlog, files), said = fitted(300, 1024)  # type: ignore[misc]
    assert (files, said) == (1024, "few files may be open (`ulimit -Hn`), so fewer connections may")
    assert 300 < connections == backlog and open_files.crowd(connections) + backlog + open_files.OTHERS <= files


def test_too_few_files_to_serve_at_all_is_one_sentence() -> None:
    said, _ = fitted(100, 100)
    assert said == "the process may open 100 files; allow 256 at least (`ulimit -Hn`), 7296 for all."


@pytest.mark.parametrize("connections", [1, 7, 4096])
def test_a_quarter_more_may_crowd(connections: int) -> None:
    assert open_files.crowd(connections) == int(1.25 * connections)
