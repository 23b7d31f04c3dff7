import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from llmsrec.errors import DataError, ParamsError, RequestError
from llmsrec.export import bundle
from llmsrec.files import read_json
from llmsrec.models.llm import retrieval
from llmsrec.models.llm.retrieval import Parts
from llmsrec.registry import start, tracking
from llmsrec.scoring import held_out
from llmsrec.serving.bundle import Bundle, seal
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import TOWERS, Event, Request, parse
from tests.answers import assert_same_answer
from tests.conftest import make_tiny

START, DAY = 1_391_040_000_000, 86_400_000  # ms
USERS = np.arange(1, 41)


@pytest.fixture(scope="module")
def recommender(tiny: Any) -> Recommender:
    return Recommender.load(tiny.bundle)


def request(items: list[int], k: int = 10, tower: str = "cf", times: list[int] | None = None) -> Request:
    """Of items bought `times` ms after START."""
    times = times or [DAY * n for n in range(1, len(items) + 1)]
    events = [Event(parent_asin=f"B{item}", timestamp=START + time) for item, time in zip(items, times, strict=True)]
    return Request(history=events, k=k, tower=tower)


def requests_of(tiny: Any, users: np.ndarray, tower: str) -> list[Request]:
    histories = [tiny.sequences.of(user) for user in users]
    return [request(items.tolist(), 10, tower, (times - START).tolist()) for items, times in histories]


def offline(tiny: Any, tower: str) -> np.ndarray:
    """`[U, I]` scores as evaluation computes them, those of the user's own items -inf."""
    import torch

    with torch.no_grad():
        teacher, items = tiny.model.teacher.user_vectors(tiny.sequences), tiny.model.item_vectors()
        if tower == "llm":
            users = tiny.model.user_vectors(tiny.sequences, USERS)
        elif tower == "cf":
            users = tiny.model.f_cf_user(teacher)[USERS]
        elif tower == "blend":
            joined, of_llm = tiny.config["blend"], tiny.model.user_vectors(tiny.sequences, USERS)
            users = torch.cat([of_llm * joined["llm"], teacher[USERS] * joined["teacher"]], dim=1)
            items = torch.cat([items, tiny.model.teacher.item_vectors()], dim=1)
        else:
            users, items = teacher[USERS], tiny.model.teacher.item_vectors()
        scores = (users @ items[1:].T).numpy()
    for row, user in enumerate(USERS):
        scores[row, tiny.sequences.of(user)[0] - 1] = -np.inf
    return scores


def assert_same_as_offline(tiny: Any, recommender: Recommender, tower: str) -> None:
    answers = recommender.recommend(requests_of(tiny, USERS, tower))
    for scores, user, answer in zip(offline(tiny, tower), USERS, answers, strict=True):
        best = np.argsort(-scores, kind="stable")[:10]
        assert [item.parent_asin for item in answer.items] == [f"B{index + 1}" for index in best]
        np.testing.assert_allclose([item.score for item in answer.items], scores[best], rtol=1e-4, atol=1e-4)
        assert (answer.used, answer.unknown, answer.fallback) == (len(tiny.sequences.of(user)[0]), [], None)


@pytest.mark.parametrize("system", ["gru4rec", "bert4rec"])  # tests/models/cf tries the ONNX of all
def test_another_teacher_serves_as_sasrec_does(tmp_path: Path, system: str) -> None:
    taught = make_tiny(tmp_path, graph=False, teacher=system)
    served = Recommender.load(taught.bundle)
    assert (taught.bundle / f"onnx/{system}.onnx").exists() and not (taught.bundle / "onnx/sasrec.onnx").exists()
    for tower in TOWERS:
        assert_same_as_offline(taught, served, tower)
    if system == "gru4rec":
        with pytest.raises(ParamsError, match="shop/1, which gru4rec taught; a training can begin from a version that"):
            start.extract(Bundle.open(taught.bundle), "shop/1", tmp_path)
    with pytest.raises(DataError, match=f"holds a trained {system}, not sasrec"):
        retrieval.build(
            taught.folder / "models/backbone", taught.folder / "models" / system,
            taught.folder / "data/filtered/items.parquet", taught.config["model"] | {"teacher": "sasrec"},
            taught.config["backbone"], 0,
        )  # fmt: skip


@pytest.mark.parametrize("tower", TOWERS)
def test_answers_equal_offline_scoring(tiny: Any, recommender: Recommender, tower: str) -> None:
    assert_same_as_offline(tiny, recommender, tower)


@pytest.mark.parametrize("tower", TOWERS)
def test_answers_equal_offline_scoring_with_adapters_and_user_representation(tiny_lora: Any, tower: str) -> None:
    assert_same_as_offline(tiny_lora, Recommender.load(tiny_lora.bundle), tower)


def test_a_quantized_backbone_is_served_quantized(tmp_path: Path) -> None:
    """Products in bfloat16 differ a little with what stands beside them: so scores are near, ranks may differ."""
    tiny = make_tiny(tmp_path, quantization="4bit")
    answers = Recommender.load(tiny.bundle).recommend(requests_of(tiny, USERS, "llm"))
    right = offline(tiny, "llm")
    near = 0.02 * np.abs(right[np.isfinite(right)]).max()
    for scores, answer in zip(right, answers, strict=True):
        at = [int(item.parent_asin[1:]) - 1 for item in answer.items]
        np.testing.assert_allclose([item.score for item in answer.items], scores[at], rtol=0, atol=near)
    assert tracking.requirements(read_json(tiny.bundle / "config.json"))[-1].startswith("bitsandbytes==")
    assert not (tiny.bundle / "layers").exists()  # ONNX Runtime would read other weights


def test_towers_differ_and_all_depend_on_order(recommender: Recommender) -> None:
    forward = recommender.recommend([request([1, 2, 3, 4], tower=tower) for tower in TOWERS])
    backward = recommender.recommend([request([4, 3, 2, 1], tower=tower) for tower in TOWERS])
    assert len({tuple(item.score for item in answer.items) for answer in forward + backward}) == 2 * len(TOWERS)


def test_a_batch_of_mixed_requests_is_answered_as_each_alone(tiny: Any, recommender: Recommender) -> None:
    users = np.arange(1, 35)  # more than one batch for the cf tower
    mixed = requests_of(tiny, users, "cf") + requests_of(tiny, users[:3], "llm") + requests_of(tiny, users, "teacher")
    mixed = [*mixed[::-1], request([]), request([7], k=30)]
    for together, single in zip(recommender.recommend(mixed), mixed, strict=True):
        (alone,) = recommender.recommend([single])
        assert_same_answer(together.model_dump(), alone.model_dump())
        if single.tower == "cf":
            assert together == alone, "the same products of the same shapes, whatever stands beside it"


def test_no_requests_no_answers(recommender: Recommender) -> None:
    assert recommender.recommend([]) == []


def test_the_answer_has_titles_and_falling_scores(recommender: Recommender) -> None:
    (answer,) = recommender.recommend([request([1, 2], k=5)])
    assert len(answer.items) == 5
    assert all(item.title == f"Bottle no {item.parent_asin[1:]} of rose water" for item in answer.items)
    scores = [item.score for item in answer.items]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("tower", TOWERS)
def test_history_is_put_in_order_of_time_and_ties_stay_as_given(recommender: Recommender, tower: str) -> None:
    tidy = request([5, 6, 7, 8], tower=tower, times=[DAY, 2 * DAY, 2 * DAY, 3 * DAY])
    jumbled = request([8, 6, 5, 7], tower=tower, times=[3 * DAY, 2 * DAY, DAY, 2 * DAY])
    swapped = request([8, 7, 5, 6], tower=tower, times=[3 * DAY, 2 * DAY, DAY, 2 * DAY])
    first, second, third = (recommender.recommend([r])[0] for r in (tidy, jumbled, swapped))
    assert first == second
    assert first != third


def test_of_repeats_the_first_is_used(recommender: Recommender) -> None:
    once = request([5, 6, 7], times=[DAY, 2 * DAY, 3 * DAY])
    again = request([5, 7, 6, 5], times=[DAY, 3 * DAY, 2 * DAY, 9 * DAY])
    first, second = recommender.recommend([once, again])
    assert first == second
    assert first.used == 3


@pytest.mark.parametrize("tower", TOWERS)
def test_unknown_items_are_skipped_and_named_oldest_first(recommender: Recommender, tower: str) -> None:
    known = request([5, 6], tower=tower, times=[DAY, 4 * DAY])
    events = [("X9", 3 * DAY), ("B6", 4 * DAY), ("", 2 * DAY), ("B5", DAY), ("X9", 5 * DAY), ("{0}%s", 6 * DAY)]
    odd = Request(history=[Event(parent_asin=asin, timestamp=START + time) for asin, time in events], tower=tower)
    first, second = recommender.recommend([known, odd])
    assert second.unknown == ["", "X9", "{0}%s"]
    assert second.model_copy(update={"unknown": []}) == first


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("asins", [[], ["X1", "X2"]])
def test_nothing_known_gives_the_most_popular_and_says_so(
    tiny: Any, recommender: Recommender, tower: str, asins: list[str]
) -> None:
    history = [Event(parent_asin=asin, timestamp=START) for asin in asins]
    (answer,) = recommender.recommend([Request(history=history, k=30, tower=tower)])
    popular = tiny.catalogue.sort("count", "item_id", descending=[True, False])
    assert [item.parent_asin for item in answer.items] == popular["parent_asin"].to_list()
    assert [item.score for item in answer.items] == popular["count"].to_list()
    assert (answer.used, answer.unknown, answer.fallback) == (0, asins, "popular")


def test_k_may_be_all_the_catalogue_and_no_more(recommender: Recommender) -> None:
    (answer,) = recommender.recommend([request([3, 4], k=30)])
    assert {item.parent_asin for item in answer.items} == {f"B{n}" for n in range(1, 31)} - {"B3", "B4"}
    with pytest.raises(RequestError, match=r"request 1, `k` is 31, but the catalogue has 30 items"):
        recommender.recommend([request([3]), request([3], k=31)])


def test_a_history_of_the_whole_catalogue_leaves_nothing(recommender: Recommender) -> None:
    (answer,) = recommender.recommend([request(list(range(1, 31)))])
    assert answer.items == []
    assert (answer.used, answer.fallback) == (30, None)


def test_no_item_without_a_title_is_recommended_while_others_are_left(tiny: Any) -> None:
    """Nobody can show an "Untitled item", however popular it is."""
    bundle = Bundle.open(tiny.bundle)
    titles = ["Untitled item" if item % 3 else f"Bottle {item}" for item in range(1, 31)]
    untitled = dataclasses.replace(bundle, items=bundle.items.with_columns(title=pl.Series(titles)))
    recommender = Recommender(untitled)
    for history in ([1, 2, 3], []):
        (answer,) = recommender.recommend([request(history, k=27)])
        named = [item.title != "Untitled item" for item in answer.items]
        count = 9 if history else 10
        assert named == [True] * count + [False] * (27 - count)


SCRIPT = """
import json, sys
from pathlib import Path
bundle = Path(sys.argv[1])
sys.path.insert(0, str(bundle / "code"))
import llmsrec
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import parse
assert Path(llmsrec.__file__).is_relative_to(bundle / "code"), llmsrec.__file__
recommender = Recommender.load(bundle)
history = [{"parent_asin": f"B{n}", "timestamp": 1_391_040_000_000 + n * 86_400_000} for n in (1, 2, 3)]
cf = recommender.recommend(parse([{"history": history, "tower": tower} for tower in ("cf", "teacher")]))
assert not {"torch", "transformers", "peft", "mlflow", "dvc"} & sys.modules.keys()
llm = recommender.recommend(parse([{"history": history, "tower": "llm"}]))
assert Path(sys.modules["llmsrec.engine.backbone"].__file__).is_relative_to(bundle / "code")
print(json.dumps([answer.model_dump() for answer in cf + llm]))
"""


def test_the_bundles_own_code_suffices_and_cf_and_teacher_need_no_torch(
    tiny: Any, recommender: Recommender, tmp_path: Path
) -> None:
    bundle = shutil.copytree(tiny.bundle, tmp_path / "bundle")  # Python will leave bytecode in it
    done = subprocess.run([sys.executable, "-c", SCRIPT, bundle], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = recommender.recommend([request([1, 2, 3], tower=tower) for tower in ("cf", "teacher", "llm")])
    for actual, answer in zip(json.loads(done.stdout.splitlines()[-1]), expected, strict=True):
        assert_same_answer(actual, answer.model_dump())


def test_the_cf_tower_of_a_model_without_distillation_is_refused(tiny: Any) -> None:
    bundle = Bundle.open(tiny.bundle)
    recommender = Recommender(dataclasses.replace(bundle, config={**bundle.config, "distilled": False}))
    request = {"history": [{"parent_asin": "B1", "timestamp": START}], "k": 3}
    with pytest.raises(RequestError, match=r"request 1, `tower` is 'cf'.*model\.distill=false"):
        recommender.recommend(parse([{**request, "tower": "llm"}, {**request, "tower": "cf"}]))
    for tower in ("llm", "teacher"):
        assert len(recommender.recommend(parse([{**request, "tower": tower}]))[0].items) == 3


def test_each_share_of_a_blended_score_is_that_towers_own_score_times_its_factor(
    tiny: Any, recommender: Recommender
) -> None:
    bought = [{"parent_asin": f"B{item}", "timestamp": START + item * DAY} for item in (3, 5, 9)]
    asked = {"history": bought, "k": 27, "explain": True}
    of = {tower: recommender.recommend(parse([{**asked, "tower": tower}]))[0] for tower in ("blend", "llm", "teacher")}
    scores = {tower: {item.parent_asin: item.score for item in answer.items} for tower, answer in of.items()}
    assert len(of["blend"].items) == 27
    for item in of["blend"].items:
        llm, teacher = (tiny.config["blend"][tower] * scores[tower][item.parent_asin] for tower in ("llm", "teacher"))
        assert item.because is not None and item.shares is not None
        assert (item.shares.llm, item.shares.teacher) == pytest.approx((llm, teacher), abs=1e-4)
        assert item.score == pytest.approx(llm + teacher, abs=1e-4)
    assert all(item.shares is None for item in of["llm"].items)
    plain = recommender.recommend(parse([{**asked, "tower": "blend", "explain": False}]))[0]
    assert all("shares" not in item for item in plain.model_dump()["items"])


def test_the_blend_of_a_model_from_before_there_was_one_is_refused(tiny: Any) -> None:
    bundle = Bundle.open(tiny.bundle)
    older = Recommender(
        dataclasses.replace(bundle, config={key: of for key, of in bundle.config.items() if key != "blend"})
    )
    with pytest.raises(RequestError, match=r"request 0, `tower` is 'blend'.* before .*'llm' or 'cf' or 'teacher'"):
        older.recommend([request([1, 2], tower="blend")])


@pytest.mark.parametrize("blend", [0.5, {"weight": 0.5}, {"weight": 0.5, "llm": -1.0, "teacher": 1.0}])
def test_a_blend_that_is_none_is_named(tiny: Any, tmp_path: Path, blend: Any) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny.bundle, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "config.json").write_text(json.dumps(read_json(folder / "config.json") | {"blend": blend}))
    seal(folder)
    with pytest.raises(DataError, match=r"config\.json is not a bundle's: `blend` is .*llm, teacher, weight"):
        Bundle.open(folder)


@pytest.fixture(scope="module")
def keeping(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """Of a model that was trained with data.repeats `keep`."""
    folder = tmp_path_factory.mktemp("keeping") / "bundle"
    shutil.copytree(tiny.bundle, folder, ignore=shutil.ignore_patterns("__pycache__"))
    config = read_json(folder / "config.json")
    config["protocol"]["repeats"] = "keep"
    (folder / "config.json").write_text(json.dumps(config))
    seal(folder)
    return Recommender.load(folder)


def test_where_repeats_are_kept_a_history_is_read_whole_and_its_items_are_recommended_again(
    tiny: Any, keeping: Recommender, recommender: Recommender
) -> None:
    import torch

    bought = [4, 9, 4, 2, 9]
    table = torch.tensor([[0] * (tiny.model.teacher.max_length - len(bought)) + bought])
    with torch.no_grad():
        user = tiny.model.f_cf_user(tiny.model.teacher.last(table))
    scores = (user @ tiny.model.item_vectors()[1:].T).numpy()[0]
    (answer,) = keeping.recommend([request(bought, k=30)])
    assert [item.parent_asin for item in answer.items] == [f"B{n + 1}" for n in np.argsort(-scores, kind="stable")]
    assert np.allclose([item.score for item in answer.items], np.sort(scores)[::-1], atol=1e-5)
    assert (answer.used, answer.unknown) == (5, [])
    (first,) = recommender.recommend([request(bought, k=30)])
    assert first.used == 3 and not {"B4", "B9", "B2"} & {item.parent_asin for item in first.items}


def test_where_repeats_are_kept_a_held_out_target_is_ranked_among_all_items(tiny: Any, keeping: Recommender) -> None:
    bundle = keeping._bundle
    users = pl.DataFrame(
        {
            "user_id": [1, 2],
            "history": [["B4", "B9", "B4"], ["B1", "B2"]],
            "timestamps": [[START, START + DAY, START + 2 * DAY], [START, START + DAY]],
            "target": ["B9", "B7"],
        }
    )
    actual = held_out.rank(bundle, users, "cf").ranks["full"]
    for row, rank in zip(users.to_dicts(), actual.tolist(), strict=True):
        items = [int(asin[1:]) for asin in row["history"]]
        (answer,) = keeping.recommend([request(items, k=30)])
        assert [item.parent_asin for item in answer.items].index(row["target"]) == rank


def test_a_bundle_of_tallrec_answers_as_offline_without_item_embeddings(tiny: Any, tmp_path: Path) -> None:
    """Prompts of text alone, and adapters on queries and values with a scale of their own."""
    import torch

    of = {**tiny.config["model"], "distill": False, "uniform": False}
    loading = tiny.config["backbone"] | {"lora_rank": 2, "lora_alpha": 16, "lora_targets": "query_value"}
    folder, parts = tiny.folder, Parts(item_embedding=False, cf_user=False)
    paths = folder / "models/backbone", folder / "models/sasrec", folder / "data/filtered/items.parquet"
    model = retrieval.build(*paths, of, loading, 0, parts=parts)
    with torch.no_grad():
        for name, parameter in model.trainable().items():
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    config = {**tiny.config, "model": of, "backbone": loading, "parts": vars(parts)}
    bundle.write(tmp_path / "bundle", model, config, tiny.catalogue, paths[0], tiny.sequences, users=5, tolerance=1e-4)
    assert_same_as_offline(dataclasses.replace(tiny, model=model), Recommender.load(tmp_path / "bundle"), "llm")
