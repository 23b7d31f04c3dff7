"""LLM-SRec under several settings, on original and on shuffled histories: the rows of Tables 7 and 12."""

from llmsrec.evaluation.names import OURS, PROTOCOLS, shown
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.results import Results
from llmsrec.experiments.section import change, level, note

METRICS = ("ndcg_10", "ndcg_20", "hr_10")


def tables(results: Results, settings: dict[str, str], shuffled_training: dict[str, str] | None = None) -> list[Table]:
    """A table a protocol: the level of each setting, and what shuffled histories change.

    Args:
        settings: its name in `runs.SETTINGS` -> what the row is called.
        shuffled_training: the same setting's name where training is shuffled, for rows of that.
    """

    def rows(protocol: str) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = []
        for setting, title in settings.items():
            base = {m: results.values(setting, OURS, "test", protocol, m) for m in METRICS}
            rows.append((title, *(level(values, results.measures) for values in base.values())))
            others = {"shuffled inference": (setting, "test_shuffled")}
            if shuffled_training:
                others["shuffled training"] = (shuffled_training[setting], "test")
            for label, (other, split) in others.items():
                values = {m: results.values(other, OURS, split, protocol, m) for m in METRICS}
                rows.append((label, *(level(of_metric, results.measures) for of_metric in values.values())))
                rows.append(("change", *(change(values[m], base[m], results.measures) for m in METRICS)))
        return rows

    said = note(results.measures, results.seeds)
    return [Table(f"Test, {protocol}", ("", *map(shown, METRICS)), rows(protocol), said) for protocol in PROTOCOLS]
