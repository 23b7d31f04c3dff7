"""The figures are drawn, are the same bytes each time, and show what they were given."""

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from llmsrec.errors import DataError
from llmsrec.evaluation import plots, report, towers
from llmsrec.evaluation.names import MODELS
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.models.cf import teacher

CURVE = [
    {"step": 10 * n, "epoch": n / 4, "loss": 3 / n, "retrieval": 2 / n, "distill": 1 / n, "uniform": -1.0,
     "valid/uni99/ndcg_10": 0.3 - 0.2 / n, "valid/full/ndcg_10": 0.05}
    for n in range(1, 9)
]  # fmt: skip


def compared(users=40, cold=7):
    random = np.random.default_rng(0)
    ranks = {
        model: {
            split: {protocol: random.integers(0, high, users) for protocol, high in (("full", 40), ("uni99", 20))}
            for split in ("test", "test_shuffled")
        }
        for model in ("llm_srec", "sasrec", "popularity")
    }
    place = np.arange(users)
    slices = {
        "warm": place < 10,
        "cold": place >= users - cold,
        "transition": place < 20,
        "non_transition": place >= 20,
    }
    of = {"llm": ranks["llm_srec"]["test"], "cf": ranks["popularity"]["test"], "teacher": ranks["sasrec"]["test"]}
    of["blend"] = of["llm"]
    compared = {"negatives": 20, "towers": towers.compare(of, None, Bootstrap(100, 0))}
    return report.comparison(ranks, slices, Bootstrap(100, 0)) | compared


def drawn(tmp_path, draw, argument):
    draw(tmp_path / "a.png", argument)
    picture = imread(tmp_path / "a.png")
    assert picture.shape[1] == 1200
    return picture


def has(picture, color):
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.isclose(picture[..., :3], rgb, atol=0.01).all(axis=-1).sum() > 50


def test_training(tmp_path):
    picture = drawn(tmp_path, plots.training, CURVE)
    assert all(has(picture, color) for color in plots.LINES.values())


def test_training_of_an_ablation_lacks_its_lines(tmp_path):
    curve = [{key: value for key, value in row.items() if key not in ("distill", "uniform")} for row in CURVE]
    picture = drawn(tmp_path, plots.training, curve)
    assert {name: has(picture, color) for name, color in plots.LINES.items()} == {
        "loss": True, "retrieval": True, "distill": False, "uniform": False
    }  # fmt: skip


@pytest.mark.parametrize("curve", [[], [{"step": 1}, CURVE[0]]])
def test_training_with_next_to_nothing(tmp_path, curve):
    drawn(tmp_path, plots.training, curve)


def test_shuffle(tmp_path):
    picture = drawn(tmp_path, plots.shuffle, compared())
    assert all(has(picture, plots.COLORS[model]) for model in compared()["means"])


def test_every_model_that_evaluate_ranks_has_a_colour_of_its_own_and_a_name():
    models = {"llm_srec", "popularity", *teacher.CLASSES}
    assert models <= plots.COLORS.keys() and models <= MODELS.keys()
    assert len(set(plots.COLORS.values())) == len(plots.COLORS)


def test_titles_say_how_many_items_were_sampled():
    assert plots.titles(compared()) == {"uni99": "uni99: among 20 sampled items", "full": "full: among all items"}


def test_slices(tmp_path):
    picture = drawn(tmp_path, plots.slices, compared())
    assert all(has(picture, plots.COLORS[model]) for model in compared()["means"])


def test_towers(tmp_path):
    picture = drawn(tmp_path, plots.towers, compared())
    assert all(has(picture, color) for color in plots.TOWER_COLORS.values())


def test_a_version_without_the_cf_tower_has_no_bar_for_it(tmp_path):
    comparison = compared()
    del comparison["towers"]["ndcg_10"]["cf"]
    assert not has(drawn(tmp_path, plots.towers, comparison), plots.TOWER_COLORS["cf"])


def test_a_slice_without_users_is_left_out(tmp_path):
    comparison = compared(cold=0)
    assert "cold" not in comparison["means"]["sasrec"]["test"]["full"]
    drawn(tmp_path, plots.slices, comparison)


@pytest.mark.parametrize("draw", [plots.shuffle, plots.slices, plots.towers])
def test_the_same_bytes_each_time_whatever_the_readers_own_style(tmp_path, draw):
    draw(tmp_path / "a.png", compared())
    with matplotlib.rc_context({"font.size": 25, "axes.facecolor": "black"}):
        draw(tmp_path / "b.png", compared())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"Software" not in (tmp_path / "a.png").read_bytes()


def limits(monkeypatch, draw, argument):
    """The ends of a picture's axes of scores."""
    with monkeypatch.context() as patch:
        figures = []
        patch.setattr(plots, "save", lambda figure, path: figures.append(figure))
        draw(None, argument)
    axes = figures[0].axes
    return [one.get_ylim() for one in (axes[1:] if draw is plots.training else axes)]


def scaled(value, factor):
    if isinstance(value, dict):
        return {key: scaled(of, factor) for key, of in value.items()}
    return value * factor if isinstance(value, float) else value


@pytest.mark.parametrize("draw", [plots.shuffle, plots.slices, plots.towers, plots.training])
def test_pictures_of_like_runs_have_the_same_axes(monkeypatch, draw):
    one = CURVE if draw is plots.training else compared()
    other = [scaled(row, 1.01) for row in one] if draw is plots.training else scaled(one, 1.01)
    ends = limits(monkeypatch, draw, one)
    assert ends == limits(monkeypatch, draw, other)
    assert all(low == 0 and high in plots.ENDS for low, high in ends)


@pytest.mark.parametrize(
    ("highest", "end"), [(0.04, 0.05), (0.128, 0.15), (0.39, 0.5), (0.99, 1.1), (1.0, 1.1), (0, 0.05)]
)
def test_an_axis_ends_above_its_scores(highest, end):
    axes = Figure().subplots()
    plots.from_zero(axes, [highest])
    assert axes.get_ylim() == (0, end)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.png").mkdir()
    with pytest.raises(DataError, match=r"cannot write .*a\.png"):
        plots.training(tmp_path / "plots" / "a.png", CURVE)
