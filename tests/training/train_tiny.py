"""Trains the tiny LLM-SRec of conftest.py: train_tiny.py FOLDER OUT RESUME [lr=.. patience=.. seed=..]"""

import sys
from pathlib import Path

import numpy as np
import torch

from llmsrec.data.sequences import Sequences
from llmsrec.files import read_json, write_json
from llmsrec.models.llm import retrieval as llm_srec
from llmsrec.params import Model, Train
from llmsrec.training.retrieval import Validation, train

torch.use_deterministic_algorithms(True)
folder, out, resume = (Path(argument) for argument in sys.argv[1:4])
options = dict(option.split("=") for option in sys.argv[4:])
settings = Train(
    start="scratch",
    targets="all",
    batch_size=4,
    lr=float(options.get("lr", 0.003)),
    lr_decay=0.9,
    beta2=0.98,
    weight_decay=0.01,
    input_lr=0.1,
    epochs=3,
    evaluations_per_epoch=2,
    patience=int(options.get("patience", 10)),
    monitor="uni99/ndcg_10",
    seed=int(options.get("seed", 0)),
)
config = read_json(folder / "models/llm_srec/config.json")
paths = folder / "models/backbone", folder / "models/sasrec", folder / "data/filtered/items.parquet"
model = llm_srec.build(*paths, config["model"], config["backbone"], settings.seed)
interactions = Sequences.read(folder / "data/filtered/interactions.parquet")
users = np.arange(1, 31)
last = interactions.offsets[users + 1] - 2
negatives = np.random.default_rng(0).integers(1, 31, (30, 9))
validation = Validation(interactions.drop_last(2), users, interactions.items[last], negatives)
curve = train(model, interactions.drop_last(2), validation, Model(**config["model"]), settings, resume)
out.mkdir(parents=True, exist_ok=True)
write_json(out / "curve.json", curve)
write_json(out / "final.json", validation.scores(model))
model.save(out, config)
