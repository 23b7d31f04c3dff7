"""What each habit of a stronger teacher is worth: SASRec and the others that can teach, in many settings on one data
set, a line of JSON each.

    python -m benchmarks.teacher --data ../beauty --out ../teacher.jsonl --rows ablation --seeds 42 43 44
    python -m benchmarks.teacher --data ../beauty --out ../teacher.jsonl --rows teacher/strong others
    python -m benchmarks.teacher --data ../beauty --out ../teacher.jsonl --rows items --backbone ../models/backbone
    python -m benchmarks.teacher --out ../teacher.jsonl      # the table of what is there

A row is a setting: words of `SETTINGS` and keys of params.yaml's section `sasrec`, joined by commas, over the committed
section; a later one wins. With `gru4rec`, `bert4rec` or `nextitnet` in front they are keys of systems/<system>.yaml,
over that file. Validation picks the epoch, test is only reported. What is in the file is not run again; what was killed
goes on from its last epoch (its state is beside the file). Training is on CUDA where there is a device. Minutes are
processor time, of the last start.

Rows with `items` other than id need the titles' vectors: `--backbone`, the folder of a language model, gives them once,
to a folder beside --out (.titles); where that is, no backbone is needed. A second table has what each is worth
beside the same setting with ids, user by user, also where the target is cold.
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
from torch import Tensor

from benchmarks import common
from llmsrec import params, systems
from llmsrec.data import candidates
from llmsrec.data.sequences import Sequences
from llmsrec.engine import backbone
from llmsrec.engine.text_vectors import text_vectors
from llmsrec.evaluation import metrics, slices
from llmsrec.evaluation.ranks import rank
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.models.cf.teacher import Teacher
from llmsrec.models.text import item_vectors, kept_vectors
from llmsrec.training.next_item import METRIC, build, train

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
ITEMS = tuple(f"teacher/strong,items={items}" for items in ("id", "text", "sum", "null_space"))
GROUPS = {"ablation": ABLATION, "others": OTHERS, "items": ITEMS}
RANKS, BOOTSTRAP = "test.npz", Bootstrap(1000, 5)
COLD, GROUP = "test/full/ndcg_10/cold", ("all", "warm", "cold")
COLUMNS = {
    "epoch": "best epoch", "epochs": "of", "minutes": "minutes", METRIC: "valid full NDCG@10",
    "test/full/hr_10": "test full HR@10", "test/full/ndcg_10": "test full NDCG@10",
    "test/uni99/ndcg_10": "test uni99 NDCG@10", COLD: "cold full NDCG@10",
}  # fmt: skip


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the file of JSON lines")
    parser.add_argument("--rows", nargs="*", default=[], help=f"settings to run, in this order; or {', '.join(GROUPS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--backbone", type=Path, help="as the stage `backbone` wrote it, for rows with other items")
    parser.add_argument("--dtype", default="bfloat16", help="the backbone's (default: %(default)s)")
    chosen = parser.parse_args()
    if chosen.rows:
        with common.data(chosen) as folder:
            run(folder, chosen)
    rows = read(chosen.out)
    print(table(rows))
    if lines := beside_ids(rows, chosen.out):
        print(f"\n{lines}")


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
            made_of = of.items if isinstance(of, params.SASRec) else "id"
            vectors = titles(folder, chosen) if made_of != "id" else None
            state, start = place(chosen.out, of), time.process_time()
            first = build(int(sequences.items.max()), of)
            whitening = None if vectors is None else item_vectors.attach(first, made_of, vectors)
            model, curve = train(
                training, sequences.drop_last(2), targets, 0, of, state, device=common.DEVICE, first=first
            )
            if whitening:
                item_vectors.detach(model, whitening)
            minutes = (time.process_time() - start) / 60
            best = max(curve, key=lambda row: row[METRIC])
            row = {"name": name, "system": of.system, "seed": seed, "settings": of.model_dump()}
            row |= {"minutes": minutes, "epochs": len(curve)}
            row |= {"epoch": best["epoch"], METRIC: best[METRIC], "curve": curve}
            measured, test = scores(model.cpu(), sequences, folder)
            groups = slices.of_test(sequences, training, np.arange(1, sequences.users + 1), test.pop("targets"))
            np.savez_compressed(state / RANKS, all=test["full"], warm=groups["warm"], cold=groups["cold"])
            row |= measured | {COLD: float(np.mean(metrics.ndcg(test["full"][groups["cold"]], 10)))}
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


def place(out: Path, of: params.NextItem) -> Path:
    """Where a row has its state, and each user's rank at the end."""
    digest = hashlib.sha256(f"{of.system} {of.model_dump_json()}".encode()).hexdigest()[:16]
    return out.with_suffix(".state") / digest


def titles(folder: Path, chosen: argparse.Namespace) -> Tensor:
    """`[I + 1, w]` vectors of the titles by `--backbone`, computed once."""
    kept = chosen.out.with_suffix(".titles")
    if not kept.exists():
        if chosen.backbone is None:
            raise SystemExit(f"{kept} is not there; `--backbone` names the folder of the language model that makes it.")
        kept_vectors.write(kept, text_vectors(backbone.load(chosen.backbone, chosen.dtype), common.titles(folder)))
    return kept_vectors.read(kept)


def scores(model: Teacher, sequences: Sequences, folder: Path) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """HR@10 and NDCG@10 of all users under both protocols, on valid and test; test's ranks, and its `targets`."""
    items = model.item_vectors().detach().numpy()
    measured: dict[str, float] = {}
    for split, hidden in (("valid", 2), ("test", 1)):
        histories = sequences.drop_last(hidden)
        positives, negatives = candidates.read(folder / "split/candidates.parquet", split)
        users = model.user_vectors(histories).detach().numpy()[1:]
        places = rank(users, items, positives, histories.offsets[1:], histories.items, negatives)
        for protocol, of_users in places.items():
            measured[f"{split}/{protocol}/ndcg_10"] = float(np.mean(metrics.ndcg(of_users, 10)))
            measured[f"{split}/{protocol}/hr_10"] = float(np.mean(of_users < 10))
    return measured, places | {"targets": positives}


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, a line for each row."""
    lines = ["| setting | seed | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for row in rows:
        shown = {key: "" if key not in row else f"{row[key]:.4f}".lstrip("0") for key in COLUMNS if "/" in key}
        cells = [shown[key] if "/" in key else f"{row[key]:.3g}" for key in COLUMNS]
        lines.append("| " + " | ".join([row["name"].replace(",", ", "), str(row["seed"]), *cells]) + " |")
    return "\n".join(lines)


def beside_ids(rows: list[dict[str, Any]], out: Path) -> str:
    """A Markdown table: test full NDCG@10 minus that of the same setting and seed with `items: id`, with intervals."""
    lines = ["| setting | seed | " + " | ".join(f"{name} users, minus id" for name in GROUP) + " |", "|---" * 5 + "|"]
    for row in rows:
        if row["settings"].get("items", "id") == "id":
            continue
        of = params.SASRec.model_validate(row["settings"])
        own, ids = (place(out, of.model_copy(update={"items": items})) / RANKS for items in (of.items, "id"))
        if not (own.exists() and ids.exists()):
            continue
        with np.load(own) as ours, np.load(ids) as theirs:
            cells = []
            for name in GROUP:
                users = ours[name] if name != "all" else slice(None)
                delta = BOOTSTRAP.difference(*(metrics.ndcg(of["all"][users], 10) for of in (ours, theirs)))
                cells.append(
                    f"{delta['difference']:+.4f} [{delta['low']:+.4f}, {delta['high']:+.4f}], {delta['relative']:+.1%}"
                )
        lines.append("| " + " | ".join([row["name"].replace(",", ", "), str(row["seed"]), *cells]) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
