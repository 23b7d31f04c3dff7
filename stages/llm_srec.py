"""LLM-SRec: heads and tokens that join the frozen backbone and the frozen teacher -> models/llm_srec/."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from llmsrec import distributed
from llmsrec.data import held_out
from llmsrec.data.sequences import Sequences
from llmsrec.engine.prefix_store import Budget
from llmsrec.files import write_json
from llmsrec.models.llm import retrieval as llm_srec
from llmsrec.training import blend, start
from llmsrec.training.retrieval import Validation, train
from llmsrec.training.schedules import heads_first
from stages.common import Stage, run

SPLIT = Path("data/split")


def main(stage: Stage) -> None:
    torch.use_deterministic_algorithms(True)
    params, backbone, begin = stage.params, stage.params.backbone, start.read(Path("models/start"))
    loading = {key: getattr(backbone, key) for key in ("dtype", "quantization", "lora_rank")}
    config = {
        "model": params.model.model_dump(),
        "backbone": loading,
        "seed": params.train.seed,
        "data": stage.data("filtered", "split"),
        "start": begin and {"version": begin.version, "bundle_sha256": begin.bundle_sha256},
    }
    model = llm_srec.build(
        Path("models/backbone"),
        Path("models") / params.model.teacher,
        Path("data/filtered/items.parquet"),
        config["model"],
        loading,
        params.train.seed,
        Budget.of(backbone.prefixes, stage.root),
    )
    if begin:
        shape = start.shape_of("model", params.model, {"teacher", "d_prime", "head_hidden", "user_representation"})
        begin.check(shape | start.shape_of("backbone", backbone, {"lora_rank"}))
        begin.fill(model.trainable())
        print(f"LLM-SRec begins from {begin.version}", flush=True)
    model.configure_layers(backbone.gradient_checkpointing, backbone.compile)
    interactions = Sequences.read(Path("data/filtered/interactions.parquet"))
    validation = Validation.of(
        held_out.read(interactions, SPLIT, "valid", params.split.by),
        SPLIT / "candidates.parquet",
        params.evaluate.validation_users,
        params.train.seed,
        params.data.repeats,
    )
    fit = heads_first if params.train.start == "heads" else partial(train, warm=begin is not None)
    curve = fit(
        model,
        Sequences.read(SPLIT / "train.parquet", interactions.users),
        validation,
        params.model,
        params.train,
        stage.resume,
    )
    config["blend"] = asdict(blend.fit(model, validation))
    if distributed.is_main():
        print(f"tower blend: the teacher's scores have {config['blend']['weight']:.0%} of the weight", flush=True)
        model.save(Path("models/llm_srec"), config)
        write_json(Path("models/llm_srec/curve.json"), curve)


if __name__ == "__main__":
    run(main, "llm_srec", parallel=True)
