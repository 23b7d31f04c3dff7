"""How well `tune.fidelity: heads` ranks configurations as `full` does, and what each costs. Run by hand:

    python -m benchmarks.fidelity . --out fidelity      # a repository in which `dvc repro llm_srec` is done

`CONFIGURATIONS` points of params.yaml's `tune.space`, the paper's values first, are trained in full and as heads on the
outputs of models/llm_srec. Each result is kept in --out as it comes, so that the same command goes on after a kill.
"""

import argparse
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr

from llmsrec import params as parameters
from llmsrec.files import read_json, write_json
from llmsrec.params import Params
from llmsrec.tuning import space, trials

CONFIGURATIONS = 12
SEED = 0


def main() -> None:
    options = arguments()
    out = options.out.resolve()
    os.chdir(options.repository)
    torch.use_deterministic_algorithms(True)
    params = parameters.load(Path("params.yaml"))
    space.check(params)
    chosen = configurations(params)
    results = {fidelity: run(fidelity, chosen, params, out) for fidelity in ("heads", "full")}
    print(table(chosen, results, f"valid/{params.train.monitor}"))


def configurations(params: Params) -> list[space.Values]:
    """The paper's values, and points drawn evenly from the space (from the logarithm where it says so)."""
    rng = np.random.default_rng(SEED)
    chosen = [space.paper(params.tune.space) or {}]
    while len(chosen) < CONFIGURATIONS:
        chosen.append(space.values({one.key: draw(one, rng) for one in params.tune.space}))
    return chosen


def draw(dimension: parameters.Dimension, rng: np.random.Generator) -> Any:
    low, high = dimension.low, dimension.high
    if low is None or high is None:
        assert dimension.choices is not None
        return dimension.choices[int(rng.integers(len(dimension.choices)))]
    value = float(np.exp(rng.uniform(np.log(low), np.log(high)))) if dimension.log else rng.uniform(low, high)
    return round(value) if isinstance(low, int) and isinstance(high, int) else value


def run(fidelity: str, chosen: list[space.Values], params: Params, out: Path) -> dict[str, Any]:
    """Value and seconds of each configuration, and the seconds of what they share; goes on from what `out` holds."""
    path = out / f"{fidelity}.json"
    results = read_json(path) if path.exists() else {"trials": {}}
    missing = [values for values in chosen if json.dumps(values) not in results["trials"]]
    if not missing:
        return results
    tuned = params.model_copy(update={"tune": params.tune.model_copy(update={"fidelity": fidelity})})
    began = time.perf_counter()
    train = trials.trainer(tuned, out / "outputs")
    results.setdefault("shared", time.perf_counter() - began)
    for values in missing:
        name = json.dumps(values)
        folder = out / fidelity / hashlib.sha256(name.encode()).hexdigest()[:16]
        began = time.perf_counter()
        curve = train(space.replace(tuned, values), folder, lambda curve: None)
        value = max(entry[f"valid/{params.train.monitor}"] for entry in curve)
        results["trials"][name] = {"value": value, "seconds": time.perf_counter() - began}
        write_json(path, results)
        print(f"{fidelity} {len(results['trials'])} of {len(chosen)}: {name} {value:.4f}", flush=True)
    return results


def table(chosen: list[space.Values], results: dict[str, Any], metric: str) -> str:
    """A row for each configuration, then what the two columns have in common."""
    keys = list(chosen[0])
    trials = {fidelity: [of["trials"][json.dumps(values)] for values in chosen] for fidelity, of in results.items()}
    scores = {fidelity: np.array([one["value"] for one in of]) for fidelity, of in trials.items()}
    lines = [f"| {' | '.join(keys)} | heads | full |", "|" + "---|" * (len(keys) + 2)]
    for row, values in enumerate(chosen):
        cells = [str(values[key]) for key in keys] + [f"{scores[one][row]:.4f}" for one in ("heads", "full")]
        lines.append(f"| {' | '.join(cells)} |")
    heads, full = scores["heads"], scores["full"]
    rho, tau = spearmanr(heads, full), kendalltau(heads, full)
    best = int(heads.argmax())
    lines += [
        "",
        metric,
        f"Spearman {rho.statistic:.2f} (p {rho.pvalue:.3f}), Kendall {tau.statistic:.2f} (p {tau.pvalue:.3f})",
        f"the configuration that heads choose is number {1 + int((full > full[best]).sum())} of {len(full)} in full",
    ]
    for fidelity, of in trials.items():
        seconds = np.median([one["seconds"] for one in of])
        lines.append(f"{fidelity}: {seconds:.1f} s a trial (median), {results[fidelity]['shared']:.0f} s once")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path, help="folder with params.yaml, data/ and models/")
    parser.add_argument("--out", type=Path, required=True, help="folder for results, outputs and checkpoints")
    return parser.parse_args()


if __name__ == "__main__":
    main()
