"""Raw events and items, from the sample, the hub or the user's own files, to parquet."""

import tempfile
from pathlib import Path
from typing import Any

from llmsrec.data import hub, raw, sample
from llmsrec.files import read_json
from llmsrec.params import Sample
from stages.common import Stage, run

OUT, SOURCES = Path("data/raw"), Path("stages/sources")


def main(stage: Stage) -> None:
    """Ingest the data of the main way."""
    ingest(stage, stage.params.data, stage.params.sample, OUT)


def ingest(stage: Stage, data: Any, settings: Sample, out: Path) -> None:
    """Find or make the two raw files that `data` names, then read them the same way.

    Args:
        data: params.yaml's `data` or `cross`; of the first, what the stage lists.
        settings: of the sample.
    """
    origin = {"source": data.source, "category": data.category}
    if data.source == "files":
        manifest = raw.ingest(*raw.find(stage.path(data.dir), data.category), out, origin)
    elif data.source == "hub":
        source = read_json(SOURCES / "hub.json")
        files = hub.download(source, data.category, data.revision, stage.root / ".cache/hub")
        manifest = raw.ingest(*files, out, {**origin, "repository": source["repository"], "revision": data.revision})
    else:
        with tempfile.TemporaryDirectory() as folder:
            sample.generate(read_json(SOURCES / "sample.json"), settings, Path(folder))
            manifest = raw.ingest(*raw.find(Path(folder), "Sample"), out, {"source": "sample"})
    print(f"{manifest['reviews']:,} events of {manifest['items']:,} items -> {out}")


if __name__ == "__main__":
    run(main, "ingest")
