"""Every table and figure, made of ranks by hand: what its claims say, and the page of all."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from docs import screenshots
from llmsrec import params as parameters
from llmsrec.errors import RequestError
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.experiments import command, page, queue
from llmsrec.experiments.about import about
from llmsrec.experiments.claims import CLAIMS
from llmsrec.experiments.paper import TABLES
from llmsrec.experiments.results import Measures
from llmsrec.experiments.section import change, claim, level
from llmsrec.experiments.workspace import Workspace

USERS = 400
MEASURES = Measures(Bootstrap(200, 0), negatives=99)


class Made:
    """Stands for `Results`: LLM-SRec is the best by far and alone loses from shuffling; all others are alike."""

    def __init__(self, root: Path) -> None:
        self.seeds, self.measures, self.workspace = [0, 1], MEASURES, Workspace(root)
        self.asked: set[tuple[str, str]] = set()
        self.same: dict[str, str] = {}  # settings whose runs are those of another

    def values(self, setting, model, split, protocol, metric):
        self.asked.add((setting, model))
        setting = self.same.get(setting, setting)
        ordered = setting.endswith("shuffled") or split == "test_shuffled"
        level = {"llm_srec": 0.3 if ordered else 0.9}.get(model, 0.2)
        if setting in ("retrieval-only", "no-uniform", "contrastive", "last-target", "random-backbone"):
            level = 0.2
        rng = np.random.default_rng([len(setting), len(model), len(split), len(protocol)])
        return (rng.random((2, USERS)) < level).astype(float)

    def pair(self, setting, model, protocol, metric):
        return tuple(self.values(setting, model, split, protocol, metric) for split in ("test", "test_shuffled"))

    def slices(self, setting="original"):
        half = np.arange(USERS) % 2 == 0
        groups = {"warm": half, "cold": ~half, "transition": half, "non_transition": ~half}
        return pl.DataFrame({"user_id": np.arange(1, USERS + 1), **groups})

    def metric(self, run, name):
        return {"no-uniform": 7.0, "original": 9.0 + run.seed}.get(run.setting)

    def towers(self, run):
        self.asked.add((run.setting, "llm_srec"))

        def minus(low: float, high: float) -> dict[str, dict[str, float]]:
            return {p: {"difference": (low + high) / 2, "low": low, "high": high} for p in ("uni99", "full")}

        level = {p: {"mean": 0.3, "low": 0.2, "high": 0.4} for p in ("uni99", "full")}
        return {
            "ndcg_10": dict.fromkeys(("blend", "llm", "teacher"), level),
            "blend_minus_llm": minus(0.1, 0.2),
            "minus_teacher": {"blend": minus(0.1 - run.seed, 0.2)},  # of seed 1 the interval holds 0
        }

    def curve(self, run, name):
        return [(1, 0.1), (2, 0.2)]


@pytest.fixture
def made(tmp_path):
    (tmp_path / "data/filtered").mkdir(parents=True)
    events = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(1, USERS + 1, dtype=np.int32), 2),
            "item_id": np.tile(np.array([1, 2], dtype=np.int32), USERS),
            "timestamp": np.arange(2 * USERS) * 86_400_000,
        }
    )
    events.write_parquet(tmp_path / "data/filtered/interactions.parquet")
    pl.DataFrame({"title": ["Red <Soap>", "Tent"]}).write_parquet(tmp_path / "data/filtered/items.parquet")
    return Made(tmp_path)


SECTIONS = [(collection, name) for collection in (TABLES, CLAIMS) for name in collection.names]


@pytest.mark.parametrize(("collection", "name"), SECTIONS, ids=[f"{c.command}-{name}" for c, name in SECTIONS])
def test_a_section_is_made_of_the_runs_that_it_names(collection, name, made):
    module = collection.module(name)
    runs = module.runs([0, 1])
    assert len(runs) == len(set(runs)) and {run.seed for run in runs} == {0, 1}
    section = module.make(made)
    assert section.title == module.TITLE and (section.tables or section.pictures)
    for table in section.tables:
        assert table.rows and {len(row) for row in table.rows} == {len(table.header)}, table.title
    assert {setting for setting, _ in made.asked} <= {run.setting for run in runs}
    from llmsrec.experiments.results import what_of

    protocol = "uni19" if name == "table4" else "full"
    assert {what_of(model, protocol) for _, model in made.asked} <= {run.what for run in runs}


def test_curves_of_several_seeds_are_their_mean_where_all_were_checked(made):
    made.curve = lambda run, name: [(1, 0.1 + run.seed), (2, 0.2 + run.seed), (3, 0.3)][: 3 - run.seed]
    axes = TABLES.module("figure7").make(made).pictures["curves"].axes[0]
    for line in axes.lines:
        np.testing.assert_allclose(line.get_xydata(), [(1, 0.6), (2, 0.7)])
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([band.min(), band.max()], [0.1, 1.2])


def test_a_claims_verdict_is_its_intervals():
    ours, theirs = np.ones((1, USERS)), np.zeros((1, USERS))
    assert claim("", ours, theirs, MEASURES).verdict == "holds"
    assert claim("", theirs, ours, MEASURES).verdict == "contradicted"
    coin = (np.arange(USERS)[None] % 2).astype(float)
    assert claim("", coin, 1 - coin, MEASURES).verdict == "not beyond noise"


def test_claims_say_what_the_ranks_do(made):
    verdicts = {claim.text: claim.verdict for claim in TABLES.module("table6").make(made).claims}
    assert set(verdicts.values()) == {"holds"} and len(verdicts) == 20
    of_order = TABLES.module("figure1").make(made).claims
    assert of_order and {claim.verdict for claim in of_order} == {"holds"}
    (apart,) = TABLES.module("table13").make(made).claims
    assert (apart.figure, apart.verdict) == ("+2.00, +3.00", "holds")
    for name in ("teacher", "losses", "order", "groups", "targets"):
        claims = CLAIMS.module(name).make(made).claims
        assert claims and {claim.verdict for claim in claims} == {"holds"}, name
    verdicts = {claim.text: claim.verdict for claim in CLAIMS.module("pretraining").make(made).claims}
    of_random = {text: verdict for text, verdict in verdicts.items() if "random" in text}
    assert set(of_random.values()) == {"holds"} and len(of_random) == 2
    assert set(verdicts.values()) - {"holds"}  # the embedded one is as good here
    made.same = {"embedded-backbone": "original"}
    again = CLAIMS.module("pretraining").make(made)
    assert {claim.text for claim in again.claims} == set(of_random)  # the same run is not compared with itself
    blend = {claim.text: claim.verdict for claim in CLAIMS.module("blend").make(made).claims}
    assert blend["full: blend is better than llm"] == "holds"
    assert blend["full: blend is better than teacher"] == "not beyond noise"  # all seeds must agree


def test_levels_and_changes_are_means_over_seeds():
    values = np.stack([np.ones(4), np.array([1.0, 1, 0, 0])])
    assert level(values, MEASURES).startswith("0.7500 ± 0.3536 (")
    assert level(values[:1], MEASURES) == "1.0000 (1.0000 .. 1.0000)"
    assert change(values[:1] / 2, values[:1], MEASURES) == "-50.0% (-50.0% .. -50.0%)"
    assert change(values[:1], values[:1] * 0, MEASURES) == "-"


def test_the_page_needs_no_network_and_escapes_titles(made, tmp_path):
    sections = [TABLES.module(name).make(made) for name in ("table7", "figure1", "figure6")]
    written = page.write(tmp_path / "paper", "Here <now>", sections, ["Table 8"])
    html = written.read_text()
    assert "Red &lt;Soap&gt;" in html and "<Soap>" not in html and "<h1>Here &lt;now&gt;</h1>" in html
    assert "Not run: Table 8" in html and html.count("data:image/png;base64,") == 1
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    markdown = (tmp_path / "paper/page.md").read_text()
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", markdown)
    assert (tmp_path / "paper" / picture).read_bytes().startswith(b"\x89PNG")
    assert "holds" in markdown and "Claims" in page.text(sections)
    page.write_markdown(tmp_path / "docs/claims.md", "Here", sections, [], about(parameters.load(Path("params.yaml"))))
    alone = (tmp_path / "docs/claims.md").read_text()
    assert alone.startswith("# Here\n\nData: Sample (sample), all users, 5-core") and "model: embedded" in alone
    assert "holds" in alone and "holds" in alone and "![" not in alone and "Not run" not in alone


@pytest.mark.skipif(screenshots.CHROMIUM is None, reason="no Chromium here; Debian: apt-get install chromium")
def test_a_browser_shows_the_page_without_a_network(made, tmp_path):
    sections = [TABLES.module(name).make(made) for name in ("table7", "figure1", "figure7")]
    written = page.write(tmp_path / "paper", "Here", sections, [])
    with screenshots.browser() as shown:
        shown.context.set_offline(True)
        shown.goto(written.resolve().as_uri())
        for section in sections:
            shown.get_by_role("heading", name=section.title).first.wait_for()
        widths = shown.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
        assert len(widths) == sum(len(section.pictures) for section in sections) > 0 and min(widths) > 100
        cells = shown.get_by_role("cell").all_inner_texts()
    for row in sections[0].tables[0].rows:
        assert set(row) <= set(cells)


def test_a_name_that_means_nothing_is_told_the_nearest():
    with pytest.raises(RequestError, match=r"no table or figure 'tabel7'.*did you mean 'table7'"):
        TABLES.module("tabel7")
    with pytest.raises(RequestError, match=r"no claim 'teachers'.*did you mean 'teacher'"):
        CLAIMS.module("teachers")


def test_a_page_takes_the_seeds_that_are_there(monkeypatch):
    """A section is made of the seeds up to the first that lacks a run."""
    missing = {"paper-shuffled-main-s1", "paper-last-target-main-s0"}
    monkeypatch.setattr(queue, "missing", lambda runs, workspace: [run for run in runs if run.name in missing])
    complete = {name: command._complete_seeds(CLAIMS, name, [0, 1, 2], None) for name in ("groups", "order", "targets")}
    assert complete == {"groups": 3, "order": 1, "targets": 0}
