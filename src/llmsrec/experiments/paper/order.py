"""What training on shuffled sequences costs each model: the rows of Tables 3 and 4."""

from collections.abc import Iterator

from llmsrec.evaluation.names import MODELS
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.results import Results
from llmsrec.experiments.section import Section, change, claim_of_change, level, note

DATA = ("Scientific", "Electronics", "CDs")
Published = dict[str, tuple[tuple[float, float], ...]]  # model -> (original, shuffled) of each of `DATA`


def section(results: Results, title: str, readings: dict[str, tuple[str, str]], paper: Published, ours: str) -> Section:
    """A table a reading, and the paper's; the claim is that shuffled training costs `ours` more than each other one.

    Args:
        readings: the table's title -> (protocol, metric).
        ours: the model that should notice the order.
    """
    tables, claims = [], []
    for reading, (protocol, metric) in readings.items():
        protocols = {
            model: "uni19" if model == "sasrec" and protocol.startswith("uni19") else protocol for model in paper
        }
        values = {
            model: (
                results.values("original", model, "test", protocols[model], metric),
                results.values("shuffled", model, "test", protocols[model], metric),
            )
            for model in paper
        }
        rows = [
            (MODELS[model], level(original, results.measures), level(shuffled, results.measures),
             change(shuffled, original, results.measures))
            for model, (original, shuffled) in values.items()
        ]  # fmt: skip
        tables.append(Table(reading, ("trained on", "original", "shuffled", "change"), rows, _note(results)))
        claims += [
            claim_of_change(
                f"{reading}: shuffled training costs {MODELS[ours]} more than {MODELS[model]}",
                values[ours], values[model], results.measures,
            )
            for model in paper
            if model not in (ours, "sasrec")
        ]  # fmt: skip
    head = ("", *(f"{name} {order}" for name in DATA for order in ("original", "shuffled", "change")))
    tables.append(Table("The paper's, on its own data", head, list(_published(paper))))
    return Section(title, tables, claims)


ORDERS = ("original", "shuffled")  # settings


def _note(results: Results) -> str:
    return note(results.measures, results.seeds, "Evaluated on test in its true order.")


def _published(paper: Published) -> Iterator[tuple[str, ...]]:
    for model, of_data in paper.items():
        cells = [(f"{a:.4f}", f"{b:.4f}", f"{b / a - 1:+.1%}") for a, b in of_data]
        yield MODELS[model], *(cell for three in cells for cell in three)
