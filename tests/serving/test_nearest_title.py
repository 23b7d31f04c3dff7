"""The nearest title by words, beside scikit-learn's vectors of the same weights."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from llmsrec.serving.nearest_title import NearestTitle

KNOWN = [
    "Rose Water, 4 oz", "Rose soap, rose oil & ROSE water", "", "Peony Soap 4 oz", "X", "rose water 4 oz!",
    "\u732b \u732b\u732b",
]  # fmt: skip


def cosines(known: list[str], titles: list[str]) -> np.ndarray:
    vectors = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+")
    rows = vectors.fit_transform(known)
    return (vectors.transform(titles) @ rows.T).toarray()


def nearest_by_sklearn(known: list[str], titles: list[str]) -> np.ndarray:
    return 1 + cosines(known, titles).argmax(axis=1)


def test_it_is_the_title_with_the_largest_cosine() -> None:
    random = np.random.default_rng(0)
    words = [f"word{number}" for number in range(60)]
    known, titles = ([" ".join(random.choice(words, 1 + random.poisson(4))) for _ in range(n)] for n in (200, 100))
    expected, actual = cosines(known, titles), NearestTitle(known).of(titles)
    assert (actual > 0).all() and len({*actual.tolist()}) > 50
    np.testing.assert_allclose(expected[np.arange(100), actual - 1], expected.max(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("title", "number"),
    [
        ("ROSE  water (4 OZ)", 1),  # as the sixth: the first of equals
        ("rose rose rose", 2),
        ("peony", 4),
        ("\u732b\u732b", 7),
        ("x", 5),
        ("No 4", 1),  # of those with a 4 the one whose other words are the commonest
        ("& !", 0),
        ("", 0),
        ("lily", 0),
    ],
)
def test_case_marks_and_order_do_not_matter_and_without_a_known_word_there_is_none(title: str, number: int) -> None:
    assert NearestTitle(KNOWN).of(["lily of the valley", title, "peony"]).tolist() == [0, number, 4]


def test_titles_without_any_word_are_near_to_nothing() -> None:
    assert NearestTitle(["-", "", "!"]).of(["!", "rose"]).tolist() == [0, 0]
