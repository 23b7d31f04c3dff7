"""What the user's own files are now (names, sizes, sha256): `ingest` depends on it, so a changed file re-runs it."""

from pathlib import Path

from llmsrec.data import raw
from llmsrec.files import sha256, write_json
from stages.common import Stage, run

FOLDER = Path("stages/sources")


def main(stage: Stage) -> None:
    """Look at the two files that data.dir and data.category name."""
    data = stage.params.data
    files = raw.find(stage.path(data.dir), data.category)
    write_json(
        FOLDER / "files.json", {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}
    )


if __name__ == "__main__":
    run(main, "files", FOLDER)
