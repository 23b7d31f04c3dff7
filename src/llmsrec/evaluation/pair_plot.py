"""The picture of two runs compared."""

from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from llmsrec.evaluation.names import PROTOCOLS
from llmsrec.evaluation.pairs import Row
from llmsrec.evaluation.plots import METRIC, STYLE, label, save
from llmsrec.evaluation.significance import LEVEL

WHOLE = {"test": "test", "test_shuffled": "shuffled"}


def plot(path: Path, rows: list[Row], names: tuple[str, str]) -> None:
    """Two runs' test NDCG@10, whole, shuffled and by slice; beside it the paired differences with their intervals.

    Args:
        path: the PNG to write.
        rows: `pairs.compare` or `pairs.unpaired`; without differences there is no second column.
        names: of A and B.
    """
    shown = [row for row in rows if row.model == "llm_srec" and row.metric == METRIC and row.what != "shuffle"]
    paired = any(row.difference for row in shown)
    with style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(10, 6.4), layout="constrained")
        grid = figure.subplots(len(PROTOCOLS), 2 if paired else 1, squeeze=False)
        bars = {}
        for (values, *rest), protocol in zip(grid, PROTOCOLS, strict=True):
            of_protocol = [row for row in shown if row.protocol == protocol]
            places = np.arange(len(of_protocol))
            sides = ((-0.2, "#0072b2", "a", f"A: {names[0]}"), (0.2, "#d55e00", "b", f"B: {names[1]}"))
            for offset, color, side, name in sides:
                bars[name] = values.bar(places + offset, [getattr(row, side) for row in of_protocol], 0.38, color=color)
            labels = [WHOLE.get(row.what, row.what).replace("_", "-\n") for row in of_protocol]
            values.set_xticks(places, labels)
            label(values, protocol, "", "NDCG@10")
            for differences in rest:
                changes = [row.difference for row in of_protocol if row.difference]
                means = np.array([change["difference"] for change in changes])
                errors = np.array([[change["low"], change["high"]] for change in changes]).T - means
                differences.errorbar(places, means, np.abs(errors), fmt="o", color="#222222", capsize=3)
                differences.axhline(0, color="#8c8c8c", linewidth=1)
                differences.set_xticks(places, labels)
                label(differences, f"B - A, paired, {LEVEL} % intervals", "", "difference")
        figure.legend(list(bars.values()), list(bars), loc="outside upper center", ncols=2)
        save(figure, path)
