"""Table 9: what training and ranking take. The paper's minutes are of another machine; the ratios are what compares."""

from llmsrec.evaluation.names import MODELS, OURS
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.paper import table3
from llmsrec.experiments.results import Results, what_of
from llmsrec.experiments.runs import Run, of
from llmsrec.experiments.section import Section

TITLE = "Table 9: time"
PAPER = [  # Scientific, Electronics: minutes an epoch of training, minutes of inference
    ("TALLRec", "194.43", "37.04", "236.73", "29.04"),
    ("LLaRA", "202.20", "38.79", "241.17", "30.62"),
    ("CoLLM", "214.12", "39.86", "251.51", "32.58"),
    ("A-LLMRec", "190.94", "35.01", "235.02", "28.14"),
    ("LLM-SRec", "185.91", "34.17", "218.21", "27.57"),
]
NOTE = (
    "Wall seconds of the stages, beside what else the machine did. LLM-SRec's ranking is its stage `evaluate`, which "
    "ranks its teacher and popularity, too, resamples users and draws pictures."
)


def runs(seeds: list[int]) -> list[Run]:
    return of(["original"], table3.WHAT, seeds)


def make(results: Results) -> Section:
    """Seconds of the runs as they were made; of one that was killed and went on, of its last part."""
    times = {model: _times(results, model) for model in table3.PAPER if model != "sasrec"}
    ours = times[OURS]

    def cells(values: list[float | None]) -> tuple[str, ...]:
        return tuple(
            "-" if value is None else f"{value:.0f} s" + (f" ({value / base:.2f}x)" if base else "")
            for value, base in zip(values, ours, strict=True)
        )

    rows = [(MODELS[model], *cells(values)) for model, values in times.items()]
    head = ("", "Scientific train", "inference", "Electronics train", "inference")
    return Section(
        TITLE,
        [
            Table("Here, and against LLM-SRec's", ("", "training, an epoch", "ranking all users"), rows, NOTE),
            Table("The paper's minutes, on its own data and machine", head, list(PAPER)),
        ],
    )


def _times(results: Results, model: str) -> list[float | None]:
    """Seconds of an epoch of training, and of ranking all users of three splits."""
    run = Run("original", what_of(model, "full"), results.seeds[0])
    train, rank = ("llm_srec", "evaluate") if model == OURS else ("train", "rank")
    seconds, ranking = (results.metric(run, f"time/{stage}_s") for stage in (train, rank))
    epochs = results.metric(run, "train/epoch")
    return [seconds / epochs if seconds and epochs else None, ranking]
