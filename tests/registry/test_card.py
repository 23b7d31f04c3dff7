"""The card against the numbers that it was made from."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

from llmsrec import params as parameters
from llmsrec.files import read_json
from llmsrec.registry import card, record
from tests.registry.made import write_outs

PARAMS = parameters.load(Path(__file__).parents[2] / "params.yaml")


@pytest.fixture(scope="module")
def facts(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> card.Facts:
    folder = tmp_path_factory.mktemp("outs")
    write_outs(folder, tiny)
    entry = record.Record(
        digest="d" * 64,
        name="no uniformity on Sample, embedded",
        params=record.used(PARAMS),
        evaluation=read_json(folder / "metrics/evaluation.json"),
        curve=[{"step": 1}, {"step": 2}],
        tags={"data.category": "Sample", "data.source": "sample"},
    )
    return card.read("llm-srec", 3, "run", entry, folder / "data", folder / "reports", tiny.bundle)


def test_every_section_says_something(facts: card.Facts) -> None:
    text = card.text(facts)
    first, _, rest = text.partition("\n\n")
    assert rest.startswith("# llm-srec version 3\n\nno uniformity on Sample, embedded\n")
    best = facts.comparison["means"]["llm_srec"]["test"]["full"]["ndcg_10"]["mean"]
    assert first.startswith(f"NDCG@10 {best:.4f}".replace(" 0.", " .")), "lists of versions show the first line"
    sections = {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in text.split("\n## ")[1:]}
    assert list(sections) == ["Intended use", "Data", "Training", "Metrics", "Limits", "How to load"]
    assert all(sections.values())
    assert "300 events of 31 items" in sections["Data"]
    assert "40 users, 30 items, 252 events" in sections["Data"]
    assert facts.config["data"]["split"][:16] in sections["Data"]
    assert "data checks: 1 rules hold" in sections["Data"]
    assert "losses: retrieval 1, distillation 1 (mse), uniformity 1" in sections["Training"]
    assert "models:/llm-srec/3" in sections["How to load"]


def test_rows_hold_the_comparisons_numbers_and_no_table_is_empty(facts: card.Facts) -> None:
    lines = card.text(facts).splitlines()
    tables = [lines[number + 1 :] for number, line in enumerate(lines) if line.startswith("|---")]
    for protocol, table in zip(("uni99", "full"), tables, strict=True):
        rows = [line for line in table[: table.index("")] if line.startswith("|")]
        names = [row.split(" | ")[0].removeprefix("| ") for row in rows]
        # cold has no users, so no row
        assert names == ["all, 40 users", "warm, 14 users", "transition, 20 users", "non-transition, 20 users",
                         "all, histories shuffled"]  # fmt: skip
        means = facts.comparison["means"]
        warm = means["llm_srec"]["test"][protocol]["warm"]["ndcg_10"]
        numbers = [f"{warm['mean']:.4f}", f"{warm['low']:.3f}", f"{warm['high']:.3f}"]
        mean, low, high = (number.removeprefix("0") for number in numbers)
        assert rows[1].split(" | ")[1] == f"{mean} [{low}, {high}]"
        assert all(len(row.split(" | ")) == 7 for row in rows)


def test_headers_are_shorter_than_the_figures_below_them(facts: card.Facts) -> None:
    """MLflow's page puts no space between columns: "LLM-SRec NDCG@10LLM-SRec HR@10"."""
    rows = [line.strip("| ").split(" | ") for line in card.text(facts).splitlines() if line.startswith("| ")]
    for head, below in itertools.pairwise(rows):
        if head[0] == "test users":
            assert all(len(name) < len(cell) for name, cell in zip(head[1:], below[1:], strict=True))


def test_a_number_in_a_text_comes_from_the_data(facts: card.Facts) -> None:
    """It said 99 sampled items whatever split.negatives was."""
    assert f"**uni99**: among {facts.comparison['negatives']} sampled items" in card.text(facts)
    other = dataclasses.replace(facts, comparison=facts.comparison | {"negatives": 20})
    assert "**uni99**: among 20 sampled items" in card.text(other)
    assert "99 sampled" not in card.text(other)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.01, 0.03, "better"), (-0.03, -0.01, "worse"), (-0.01, 0.03, "neither better nor worse beyond noise")],
)
def test_limits_say_what_the_interval_says(facts: card.Facts, low: float, high: float, said: str) -> None:
    actual = {"difference": (low + high) / 2, "low": low, "high": high}
    comparison = facts.comparison | {
        "differences": {"llm_srec_minus_sasrec": {"full": {"ndcg_10": actual}}},
    }
    text = card.text(dataclasses.replace(facts, comparison=comparison))
    assert f"Against SASRec, among all items: {said}, NDCG@10 {actual['difference']:+.4f} [" in text
    assert "cold items" not in text


def test_without_distillation_there_is_no_cf_tower(facts: card.Facts) -> None:
    params = facts.logged.params | {"model.distill": False, "model.uniform": False}
    measured = facts.comparison["towers"]
    towers = {
        key: {tower: actual for tower, actual in measured[key].items() if tower != "cf"}
        for key in ("ndcg_10", "hr_10", "minus_teacher")
    }
    changed = dataclasses.replace(
        facts,
        config=facts.config | {"distilled": False},
        logged=dataclasses.replace(facts.logged, params=params),
        comparison=facts.comparison | {"towers": towers},
    )
    text = card.text(changed)
    assert "through SASRec, without" not in text and "`tower: cf` is refused" in text
    assert "losses: retrieval 1\n" in text
    assert "in common" not in text


def test_a_description_fits_a_strict_database(facts: card.Facts) -> None:
    text = card.text(facts)
    assert card.description(text) == text
    long = text + "a line\n" * 1000
    cut = card.description(long)
    assert len(cut) <= card.LONGEST
    kept = cut[: cut.index("\n\nCut here")]
    assert long.startswith(kept + "\n")
