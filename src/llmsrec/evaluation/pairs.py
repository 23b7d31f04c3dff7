"""Two evaluations of the same users, user by user: what changed, and how sure that is."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from llmsrec.evaluation.metrics import per_user
from llmsrec.evaluation.names import METRICS, MODELS, OURS, PROTOCOLS, TITLES, metrics, shown, sliced
from llmsrec.evaluation.significance import LEVEL, Bootstrap
from llmsrec.evaluation.tables import Table

COMPARED = ("llm_srec", "sasrec")


@dataclass(frozen=True)
class Row:
    """One figure of A and of B.

    Attributes:
        model: llm_srec or sasrec.
        what: `test`; `test_shuffled`; `shuffle`, test_shuffled minus test; or the name of a slice of test.
        protocol, metric: such as full and ndcg_10.
        users: behind it; None where that is not known.
        a, b: the means of A and B.
        difference: of B minus A, paired (`Bootstrap.difference`); None where the users are not the same.
    """

    model: str
    what: str
    protocol: str
    metric: str
    users: int | None
    a: float
    b: float
    difference: dict[str, float] | None


def compare(a: pl.DataFrame, b: pl.DataFrame, slices: pl.DataFrame | None, bootstrap: Bootstrap) -> list[Row]:
    """Every figure of two `ranks.parquet` of the same users and candidates, under the protocols that both have.

    SASRec is there only if the two have another teacher. Slices are those of `slices.parquet`.
    """
    rows: list[Row] = []
    for model in COMPARED:
        sides = [frame.filter(model=model).sort("split", "protocol", "user_id") for frame in (a, b)]
        if model == OURS or not (sides[0].equals(sides[1]) or any(side.is_empty() for side in sides)):
            rows += _of_model(model, sides, slices, bootstrap)
    return rows


def unpaired(a: dict[str, float], b: dict[str, float]) -> list[Row]:
    """The same figures from the metrics of two runs (`test/uni99/ndcg_10`), where pairs cannot be made."""
    groups = [parts[3] for parts in (key.split("/") for key in a if key in b) if len(parts) == 4 and parts[0] == "test"]
    names = [("test", metric, "") for metric in METRICS] + [("test_shuffled", sliced("full"), "")]
    names += [("test", sliced("full"), f"/{group}") for group in dict.fromkeys(groups)]
    return [
        Row("llm_srec", group[1:] or split, protocol, metric, None, a[key], b[key], None)
        for split, metric, group in names
        for protocol in PROTOCOLS
        if (key := f"{split}/{protocol}/{metric}{group}") in a and key in b
    ]


def tables(rows: list[Row], resamples: int) -> list[Table]:
    """Whole test, order and slices, each a table if it has rows."""
    interval = f"{LEVEL} % paired bootstrap over users, {resamples:,} resamples; * the interval is beyond 0"
    of_order = [row.metric for row in rows if row.what in ("test_shuffled", "shuffle")]
    metric = " and ".join(dict.fromkeys(map(shown, of_order)))
    parts = {
        "Test": [row for row in rows if row.what == "test"],
        f"Order: {metric} of shuffled histories, and what shuffling changes": [
            row for row in rows if row.what in ("test_shuffled", "shuffle")
        ],
        f"Slices of test: {metric}": [row for row in rows if row.what not in ("test", "test_shuffled", "shuffle")],
    }
    return [
        Table(title, ("", *_header(part)), [(_label(row), *_cells(row)) for row in part], _note(part, interval))
        for title, part in parts.items()
        if part
    ]


def _of_model(
    model: str, sides: list[pl.DataFrame], slices: pl.DataFrame | None, bootstrap: Bootstrap
) -> Iterator[Row]:
    """One model's rows; `sides` are its ranks in A and B, sorted by user within each split and protocol."""

    def row(what: str, protocol: str, metric: str, values: list[np.ndarray]) -> Row:
        minus = bootstrap.difference(values[1], values[0])
        return Row(
            model, what, protocol, metric, len(values[0]), float(values[0].mean()), float(values[1].mean()), minus
        )

    def values(split: str, protocol: str, metric: str) -> list[np.ndarray]:
        chosen = [side.filter(split=split, protocol=protocol)["rank"].to_numpy() for side in sides]
        return [per_user(ranks, metric) for ranks in chosen]

    protocols = common(*sides)
    for metric in dict.fromkeys(metric for protocol in protocols for metric in metrics(protocol)):
        of_metric = [protocol for protocol in protocols if metric in metrics(protocol)]
        yield from (row("test", protocol, metric, values("test", protocol, metric)) for protocol in of_metric)
    for protocol in protocols:
        metric = sliced(protocol)
        original, shuffled = (values(split, protocol, metric) for split in ("test", "test_shuffled"))
        yield row("test_shuffled", protocol, metric, shuffled)
        yield row("shuffle", protocol, metric, [s - o for s, o in zip(shuffled, original, strict=True)])
    groups = {} if slices is None else slices.sort("user_id").drop("user_id").to_dict()
    for name, column in groups.items():
        members = column.to_numpy()
        if members.any():
            for protocol in protocols:
                metric = sliced(protocol)
                yield row(name, protocol, metric, [of[members] for of in values("test", protocol, metric)])


def common(a: pl.DataFrame, b: pl.DataFrame) -> list[str]:
    """The protocols under which both were ranked, retrieval before titles."""
    both = set(a["protocol"]) & set(b["protocol"])
    return [protocol for protocol in (*PROTOCOLS, *TITLES) if protocol in both]


def _header(rows: list[Row]) -> tuple[str, ...]:
    paired = ("users", "A", "B", "B - A", "interval", "relative")
    return paired if rows[0].difference else ("A", "B")


def _note(rows: list[Row], interval: str) -> str:
    return interval if rows[0].difference else "not paired, so no interval of the difference"


def _label(row: Row) -> str:
    """Such as `full NDCG@10`, `full shuffled`, `full cold`; of another model, with its name."""
    words = {"test": shown(row.metric), "test_shuffled": "shuffled", "shuffle": "shuffled - original"}
    label = f"{row.protocol} {words.get(row.what, row.what.replace('_', '-'))}"
    return label if row.model == OURS else f"{MODELS[row.model]} {label}"


def _cells(row: Row) -> tuple[str, ...]:
    shown = (f"{row.a:.4f}", f"{row.b:.4f}")
    if row.difference is None:
        return shown
    low, high = row.difference["low"], row.difference["high"]
    relative = f"{row.difference['relative']:+.1%}" if "relative" in row.difference and row.what != "shuffle" else ""
    mark = "*" if low > 0 or high < 0 else " "
    interval = f"{low:+.4f} .. {high:+.4f} {mark}"
    return (f"{row.users:,}", *shown, f"{row.difference['difference']:+.4f}", interval, relative)
