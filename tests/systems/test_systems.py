"""Names of systems, where they lie, and how their settings fail."""

from pathlib import Path

import pytest

from llmsrec import systems
from llmsrec.errors import RequestError


def test_every_name_is_read_back() -> None:
    assert [systems.parse(name) for name in systems.names()][:2] == [
        ("gru4rec", "retrieval"),
        ("bert4rec", "retrieval"),
    ]
    assert systems.folder("gru4rec", "retrieval") == Path("models/gru4rec")
    assert systems.folder("collm", "titles") == Path("models/collm-titles")


@pytest.mark.parametrize(
    "name, said",
    [
        ("tallrec-title", "did you mean 'tallrec-titles'"),
        ("gru4rec-titles", "gru4rec has no form 'titles'; it has retrieval"),
        ("grurec-retrieval", "did you mean 'gru4rec-retrieval'"),
        ("", "there is no system ''"),
    ],
)
def test_a_name_that_means_nothing_is_told_the_nearest(name: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        systems.parse(name)
