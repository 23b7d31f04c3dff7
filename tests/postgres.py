"""A real PostgreSQL of the tests' own."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import free_port


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URI of a new PostgreSQL's database; it ends with the tests."""
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin")), *map(Path, os.get_exec_path())]
    tools = next((folder for folder in folders if (folder / "initdb").exists()), None)
    if tools is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root; Debian's package makes this user
    home = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    if user:
        shutil.chown(home, user, user)

    def run(tool: str, *arguments: str) -> None:
        command = [str(tools / tool), "-D", str(home / "data"), *arguments]
        with (home / "log").open("a") as log:
            done = subprocess.run(command, user=user, group=user, cwd=home, stdout=log, stderr=log, check=False)
        assert done.returncode == 0, (home / "log").read_text()

    port = free_port()
    run("initdb", "-U", "mlflow", "-A", "trust", "-E", "UTF8", "--no-sync")
    run("pg_ctl", "-w", "start", "-o", f"-F -h 127.0.0.1 -p {port} -k {home}")
    yield f"postgresql+psycopg://mlflow@127.0.0.1:{port}/postgres"
    run("pg_ctl", "-m", "immediate", "stop")
    shutil.rmtree(home)
