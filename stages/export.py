"""LLM-SRec as ONNX files, vectors and a catalogue that need no training code -> models/bundle/."""

from pathlib import Path

from llmsrec.data.sequences import Sequences
from llmsrec.drift import reference
from llmsrec.engine.prefix_store import Budget
from llmsrec.export import bundle
from llmsrec.files import read_json
from llmsrec.models.llm import retrieval as llm_srec
from llmsrec.models.text import item_vectors
from stages.common import Stage, run

BACKBONE, CHECKPOINT = Path("models/backbone"), Path("models/llm_srec")
ITEMS = Path("data/filtered/items.parquet")


def main(stage: Stage) -> None:
    prefixes = Budget.of(stage.params.backbone.prefixes, stage.root)
    events = Sequences.read(Path("data/filtered/interactions.parquet"))
    teacher = Path("models") / stage.params.model.teacher
    bundle.write(
        Path("models/bundle"),
        llm_srec.load(CHECKPOINT, BACKBONE, teacher, ITEMS, prefixes),
        read_json(CHECKPOINT / "config.json"),
        bundle.catalogue(ITEMS, Path("data/split/train.parquet")),
        BACKBONE,
        events.drop_last(1),
        stage.params.export.users,
        stage.params.export.tolerance,
        stage.params.data.repeats,
        stage.params.export.index_above,
        item_vectors.load(teacher),
    )
    digest = reference.add(Path("models/bundle"), events)
    parity = read_json(Path("models/bundle/parity.json"))
    worst = max(parity["largest_difference"].values())
    same = " and ".join(f"{tower} {top['same']} of {top['users']}" for tower, top in parity["top_10"].items())
    print(f"bundle {digest[:12]}: torch and ONNX Runtime within {worst:.1e}; same top 10: {same} users", flush=True)
    of_llm = parity["language_model"]
    if of_llm["runtime"] == "onnx":
        print(f"the language model runs on ONNX Runtime, too: overlap@10 {of_llm['overlap_10']:.4f}", flush=True)


if __name__ == "__main__":
    run(main, "export")
