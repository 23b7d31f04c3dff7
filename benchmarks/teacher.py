"""What each habit of a stronger teacher is worth: SASRec and the others that can teach, in many settings on one data
set, a line of JSON each.

    python -m benchmarks.teacher --data ../beauty --out ../teacher.jsonl --rows ablation --seeds 42 43 44
    python -m benchmarks.teacher --data ../beauty --out ../teacher.jsonl --rows teacher/strong others
    python -m benchmarks.teacher --out ../teacher.jsonl      # the table of what is there

A row is a setting: words of `SETTINGS` and keys of params.yaml's section `sasrec`, joined by commas, over the committed
section; a later one wins. With `gru4rec`, `bert4rec` or `nextitnet` in front they are keys of systems/<system>.yaml,
over that file. Validation picks the epoch, test is only reported. What is in the file is not run again; what was killed
goes on from its last epoch (its state is beside the file). Training is on CUDA where there is a device. Minutes are
processor time, of the last start.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML

from benchmarks import common
from llmsrec import params, systems
from llmsrec.data import candidates
from llmsrec.data.sequences import Sequences
from llmsrec.evaluation import metrics
from llmsrec.evaluation.ranks import rank
from llmsrec.models.cf.teacher import Teacher
from llmsrec.training.next_item import METRIC, train

SETTINGS: dict[str, dict[str, Any]] = {
    "committed": {},
    "teacher/strong": common.strong().model_dump(exclude={"seed"}),
    "strong": {
        "heads": 2, "dropout": 0.5, "norm": "post", "feed_forward": 4, "activation": "gelu", "samples": "prefixes",
        "batch_size": 256,
    },
    "esasrec": {
        "dim": 256, "blocks": 1, "heads": 1, "dropout": 0.2, "loss": "sampled_softmax", "negatives": 256, "epochs": 200,
        "patience": 50,
    },
}  # fmt: skip
ABLATION = (  # the preset, and what each of its parts is worth; the likeliest first
    "teacher/strong",
    "committed",
    "teacher/strong,low_pass=0.0",
    "committed,samples=prefixes,dropout=0.5,batch_size=256",
    "teacher/strong,lr=0.0005,epochs=60",
    "teacher/strong,label_smoothing=0.1",
    "teacher/strong,low_pass=0.5",
    "teacher/strong,low_pass=0.3",
    "teacher/strong,low_pass=0.0,samples=sequences,batch_size=128",
    "teacher/strong,low_pass=0.0,norm=pre",
    "teacher/strong,feed_forward=1,activation=relu",
    "teacher/strong,dropout=0.3",
    "teacher/strong,schedule=constant,epochs=100",
    "teacher/strong,batch_size=128",
    "teacher/strong,dim=128",
    "teacher/strong,dim=256",
    "strong",
    "esasrec",
)
OTHERS = (
    "gru4rec,embedding_dropout=0.5,schedule=linear,epochs=20",
    "bert4rec,dropout=0.5,batch_size=256,schedule=linear,epochs=16",
    "nextitnet,dropout=0.3,schedule=linear,epochs=4",
)
GROUPS = {"ablation": ABLATION, "others": OTHERS}
COLUMNS = {
    "epoch": "best epoch", "epochs": "of", "minutes": "minutes", METRIC: "valid full NDCG@10",
    "test/full/hr_10": "test full HR@10", "test/full/ndcg_10": "test full NDCG@10",
    "test/uni99/ndcg_10": "test uni99 NDCG@10",
}  # fmt: skip


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the file of JSON lines")
    parser.add_argument("--rows", nargs="*", default=[], help="settings to run, in this order; or `ablation`, `others`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    chosen = parser.parse_args()
    if chosen.rows:
        with common.data(chosen) as folder:
            run(folder, chosen)
    print(table(read(chosen.out)))


def run(folder: Path, chosen: argparse.Namespace) -> None:
    """Train and evaluate every row that the file lacks, and add it."""
    print(common.machine(), flush=True)
    sequences = Sequences.read(folder / "filtered/interactions.parquet")
    training = Sequences.read(folder / "split/train.parquet")
    targets = Sequences.read(folder / "split/valid.parquet").items
    names = [name for row in chosen.rows for name in GROUPS.get(row, (row,))]
    for name in names:
        for seed in chosen.seeds:
            of = settings(name, seed)
            if any((row["system"], row["settings"]) == (of.system, of.model_dump()) for row in read(chosen.out)):
                continue
            print(f"\n{name}, seed {seed}: {of}", flush=True)
            digest = hashlib.sha256(f"{of.system} {of.model_dump_json()}".encode()).hexdigest()[:16]
            state = chosen.out.with_suffix(".state") / digest
            start = time.process_time()
            model, curve = train(
                training, sequences.drop_last(2), targets, int(sequences.items.max()), of, state, device=common.DEVICE
            )
            minutes = (time.process_time() - start) / 60
            best = max(curve, key=lambda row: row[METRIC])
            row = {"name": name, "system": of.system, "seed": seed, "settings": of.model_dump()}
            row |= {"minutes": minutes, "epochs": len(curve)}
            row |= {"epoch": best["epoch"], METRIC: best[METRIC], "curve": curve}
            row |= scores(model.cpu(), sequences, folder)
            with chosen.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def settings(name: str, seed: int) -> params.NextItem:
    """`strong,dim=128` as a section of params.yaml, `gru4rec,dim=128` as systems/gru4rec.yaml."""
    base: params.NextItem = common.settings().sasrec
    system, _, rest = name.partition(",")
    if system in systems.CF:
        base, name = systems.settings(system, "retrieval", common.ROOT / f"systems/{system}.yaml"), rest
    values = base.model_dump() | {"seed": seed}
    for part in filter(None, name.split(",")):
        key, equals, value = part.partition("=")
        values |= {key: YAML(typ="safe").load(value)} if equals else SETTINGS[part]
    return type(base).model_validate(values)


def scores(model: Teacher, sequences: Sequences, folder: Path) -> dict[str, float]:
    """HR@10 and NDCG@10 of all users under both protocols, on valid and test."""
    items = model.item_vectors().detach().numpy()
    found: dict[str, float] = {}
    for split, hidden in (("valid", 2), ("test", 1)):
        histories = sequences.drop_last(hidden)
        positives, negatives = candidates.read(folder / "split/candidates.parquet", split)
        users = model.user_vectors(histories).detach().numpy()[1:]
        places = rank(users, items, positives, histories.offsets[1:], histories.items, negatives)
        for protocol, of_users in places.items():
            found[f"{split}/{protocol}/ndcg_10"] = float(np.mean(metrics.ndcg(of_users, 10)))
            found[f"{split}/{protocol}/hr_10"] = float(np.mean(of_users < 10))
    return found


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, a line for each row."""
    lines = ["| setting | seed | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for row in rows:
        cells = [f"{row[key]:.4f}".lstrip("0") if "/" in key else f"{row[key]:.3g}" for key in COLUMNS]
        lines.append("| " + " | ".join([row["name"].replace(",", ", "), str(row["seed"]), *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
