"""Raw events and items, from the sample, the hub or the user's own files, to parquet."""

import tempfile
from pathlib import Path

from llmsrec.data import hub, raw, sample
from llmsrec.files import read_json
from stages.common import Stage, run

OUT = Path("data/raw")


def main(stage: Stage) -> None:
    """Find or make the two raw files, then read them the same way."""
    data = stage.params.data
    source = read_json(Path(f"stages/sources/{data.source}.json"))
    origin = {"source": data.source, "category": data.category}
    if data.source == "sample":
        with tempfile.TemporaryDirectory() as folder:
            sample.generate(source, stage.params.sample, Path(folder))
            manifest = raw.ingest(*raw.find(Path(folder), "Sample"), OUT, {"source": "sample"})
    elif data.source == "hub":
        files = hub.download(source, data.category, data.revision, stage.root / ".cache/hub")
        manifest = raw.ingest(*files, OUT, {**origin, "repository": source["repository"], "revision": data.revision})
    else:
        manifest = raw.ingest(*raw.find(stage.path(data.dir), data.category), OUT, origin)
    print(f"{manifest['reviews']:,} events of {manifest['items']:,} items -> {OUT}")


if __name__ == "__main__":
    run(main, "ingest")
