"""A warm training beside a full one, on data that have grown by a tenth:

    python -m benchmarks.warm --out ../warm            # the built-in sample; a full training twice: an hour or more

Last week's model is trained on the oldest nine tenths of the events and registered. Then, on all events: a full
training, and trainings that begin from last week's model (`train.start`) with fewer epochs. The best of these by
validation is chosen, and it alone is tested. Beside them is last week's model as it is, asked about this week's test
users. Times are seconds of processor time, the start of Python included, of what trains: backbone, SASRec, LLM-SRec.

Each stage runs as the pipeline runs it, in a folder of its own below --out. What is done there is not done again.
"""

import argparse
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT, stages, workspace
from llmsrec import params as parameters
from llmsrec import presets
from llmsrec.data import sample
from llmsrec.evaluation import test_users
from llmsrec.evaluation.metrics import per_user
from llmsrec.files import read_json
from llmsrec.scoring import held_out
from llmsrec.serving.bundle import Bundle

GIVEN: dict[str, Any] = {"data.source": "files", "data.category": "Sample", "registry.model": "shop"}
NEWEST = 0.1  # share of the events that last week did not have
TRAINS = ("backbone", "sasrec", "llm_srec")
BEFORE = ("start", "files", "ingest", "filter", "split", "validate")
AFTER = ("evaluate",)
REGISTERS = ("export", "register")
MONITOR = "valid/uni99/ndcg_10"  # `train.monitor` as committed
# Fewer epochs, and learning rates that fall further in them.
ONCE: dict[str, Any] = {"sasrec.epochs": 10, "train.epochs": 1, "train.evaluations_per_epoch": 4}
WARM: dict[str, dict[str, Any]] = {
    "1 epoch, rates as committed": ONCE,
    "1 epoch, from .0005, falling": {**ONCE, "sasrec.lr": 0.0005, "train.lr": 0.0005, "train.lr_decay": 0.6},
    "1 epoch, from .001, falling": {**ONCE, "sasrec.lr": 0.0005, "train.lr_decay": 0.6},
    "preset warm: 2 epochs, falling": {**presets.WARM},
}


def main() -> None:
    out = arguments().out.resolve()
    data(out)
    old, everything = ({**GIVEN, "data.dir": str(out / f"data/{name}")} for name in ("old", "all"))
    last = workspace(out / "last", old)
    stages(last, (*BEFORE, *TRAINS, *AFTER, *REGISTERS))
    rows = {"full": workspace(out / "full", everything)}
    for number, (name, values) in enumerate(WARM.items(), start=1):
        rows[name] = workspace(out / f"warm-{number}", {**everything, "train.start": "shop/1", **values})
    for folder in rows.values():
        stages(folder, (*BEFORE, *TRAINS))
    chosen = max(WARM, key=lambda name: best(rows[name]))
    for name in ("full", chosen):
        stages(rows[name], AFTER)
    print(table(rows, chosen, last))


def data(out: Path) -> None:
    """The built-in sample's files, whole and without the newest tenth of the reviews."""
    everything, old = out / "data/all", out / "data/old"
    if old.exists():
        return
    everything.mkdir(parents=True)
    settings = parameters.load(ROOT / "params.yaml").sample
    sample.generate(read_json(ROOT / "stages/sources/sample.json"), settings, everything)
    lines = gzip.decompress((everything / "Sample.jsonl.gz").read_bytes()).decode().splitlines(keepends=True)
    times = np.array([json.loads(line)["timestamp"] for line in lines])
    until = np.quantile(times, 1 - NEWEST, method="lower")
    old.mkdir()
    kept = [line for line, time in zip(lines, times, strict=True) if time <= until]
    (old / "Sample.jsonl.gz").write_bytes(gzip.compress("".join(kept).encode(), mtime=0))
    shutil.copy(everything / "meta_Sample.jsonl.gz", old)


def best(folder: Path) -> float:
    """The validation score of the check whose weights are kept."""
    return max(float(entry[MONITOR]) for entry in read_json(folder / "models/llm_srec/curve.json"))


def table(rows: dict[str, Path], chosen: str, last: Path) -> str:
    """A line each, and how the chosen one stands to the full training."""
    lines = ["| | " + " | ".join((*TRAINS, "seconds", MONITOR, "test/uni99", "test/full")) + " |", "|---" * 8 + "|"]
    figures = {}
    for name, folder in rows.items():
        seconds = [read_json(folder / "seconds.json")[stage] for stage in TRAINS]
        tests = tested(folder) if name in ("full", chosen) else {}
        figures[name] = (sum(seconds), tests)
        shown = [f"{tests[protocol]:.4f}" if tests else "not looked at" for protocol in ("uni99", "full")]
        lines.append(
            f"| {name} | " + " | ".join(f"{value:.0f}" for value in (*seconds, sum(seconds)))
            + f" | {best(folder):.4f} | {' | '.join(shown)} |"
        )  # fmt: skip
    stale = asked(last, rows["full"])
    lines.append(f"| last week's as it is | | | | 0 | | | {stale:.4f} |")
    full, warm = figures["full"], figures[chosen]
    lines += ["", f"{chosen}, chosen on validation: {warm[0] / full[0]:.0%} of the full training's time, test NDCG@10"]
    lines.append(", ".join(f"{protocol} {warm[1][protocol] / full[1][protocol]:.1%} of its" for protocol in full[1]))
    return "\n".join(lines)


def tested(folder: Path) -> dict[str, float]:
    """Test NDCG@10 of LLM-SRec by protocol."""
    ours = read_json(folder / "metrics/evaluation.json")["llm_srec"]["test"]
    return {protocol: float(ours[protocol]["ndcg_10"]) for protocol in ("uni99", "full")}


def asked(last: Path, now: Path) -> float:
    """Full NDCG@10 of last week's bundle over this week's test users, as `llmsrec promote` asks it."""
    settings = parameters.load(now / "params.yaml").evaluate
    users = test_users.of_data(now / "data/filtered", settings.test_users, settings.seed)
    ranked = held_out.rank(Bundle.open(last / "models/bundle"), users, "llm")
    return float(per_user(ranked.ranks["full"], "ndcg_10").mean())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, trainings and a registry")
    return parser.parse_args()


if __name__ == "__main__":
    main()
