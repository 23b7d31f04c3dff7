"""The file of kept keys and values: used again, never for other inputs, and checked."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmsrec.engine.prefix_store import Budget, File, Memory, digest, groups, make_room
from llmsrec.engine.prefixes import ItemPrefixes
from llmsrec.errors import DataError
from llmsrec.models.llm.retrieval import LLMSRec

TITLES = ["Soap", "a much longer title", "Tent"]
LENGTHS = torch.tensor([0, 2, 3, 1])
ROWS = torch.arange(6 * 4, dtype=torch.float32).view(6, 2, 2)
ALL = torch.tensor([1, 2, 3])


def file(folder: Path) -> File:
    return File(folder / "a.kv", LENGTHS, ROWS[:1])


class Whole:
    """What was put, never damaged."""

    def get(self, item_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return ROWS, (LENGTHS.cumsum(0) - LENGTHS)[item_ids]


def rows_of(store: Any, item: int) -> torch.Tensor:
    rows, starts = store.get(torch.tensor([item]))
    return rows[int(starts[0]) : int(starts[0]) + int(LENGTHS[item])]


@pytest.mark.parametrize("kind", ["memory", "file"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_put_is_got(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    rows = ROWS.to(dtype)
    store = Memory(LENGTHS, rows[:1]) if kind == "memory" else File(tmp_path / "a.kv", LENGTHS, rows[:1])
    assert store.missing(ALL).tolist() == [1, 2, 3]
    store.put(torch.tensor([3, 1]), rows[:3])
    assert store.missing(ALL).tolist() == [2]
    assert torch.equal(rows_of(store, 3), rows[:1])
    assert torch.equal(rows_of(store, 1), rows[1:3])


def test_a_file_is_used_again(tmp_path: Path) -> None:
    file(tmp_path).put(torch.tensor([2, 3]), ROWS[:4])
    again = file(tmp_path)
    assert again.missing(ALL).tolist() == [1]
    assert torch.equal(rows_of(again, 2), ROWS[:3])


def test_a_damaged_item_is_noticed_and_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = file(tmp_path)
    store.put(ALL, ROWS)
    with (tmp_path / "a.kv").open("r+b") as handle:
        handle.seek(8 * 4 + 2 * 16 + 5)  # behind the table and item 1: in item 2
        handle.write(b"\xff")
    again = file(tmp_path)
    assert again.missing(ALL).tolist() == [2]
    assert "item 2" in capsys.readouterr().out
    again.put(torch.tensor([2]), ROWS[2:5])
    assert file(tmp_path).missing(ALL).tolist() == []


@pytest.mark.parametrize("how", ["a byte", "truncated", "emptied"])
def test_a_file_that_changes_while_it_is_in_use_is_noticed(how: str, tmp_path: Path, capsys: Any) -> None:
    store = file(tmp_path)
    store.put(ALL, ROWS)
    assert store.get(ALL) is not None
    content = bytearray((tmp_path / "a.kv").read_bytes())
    content[-10] ^= 1
    if how == "a byte":
        with (tmp_path / "a.kv").open("r+b") as handle:
            handle.write(content)
    else:
        os.truncate(tmp_path / "a.kv", len(content) - 20 if how == "truncated" else 0)
    assert store.get(ALL) is None
    damaged = store.missing(ALL)
    assert 3 in damaged.tolist() and "item 3" in capsys.readouterr().out
    for item in damaged.tolist():
        start = int(LENGTHS[:item].sum())
        store.put(torch.tensor([item]), ROWS[start : start + int(LENGTHS[item])])
    assert all(torch.equal(rows_of(store, item), rows_of(Whole(), item)) for item in (1, 2, 3))


def test_items_that_change_under_a_model_are_computed_again(
    tiny_backbone: Any, teacher: Any, settings: Any, tmp_path: Path
) -> None:
    model = LLMSRec(tiny_backbone, teacher, TITLES, settings, 0, Budget(0, 1 << 30, tmp_path))
    expected = model.hidden_items(ALL)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"\x01" * path.stat().st_size)
    assert torch.equal(model.hidden_items(ALL), expected)
    path.write_bytes(b"")
    assert torch.equal(model.hidden_items(ALL), expected)


def test_a_file_of_another_size_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file(tmp_path).put(ALL, ROWS)
    content = (tmp_path / "a.kv").read_bytes()
    (tmp_path / "a.kv").write_bytes(content[:-3])
    assert file(tmp_path).missing(ALL).tolist() == [1, 2, 3]
    assert "is damaged" in capsys.readouterr().out
    assert len((tmp_path / "a.kv").read_bytes()) == len(content)


def test_a_killed_writer_leaves_nothing_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = file(tmp_path)
    monkeypatch.setattr(File, "_checksum", staticmethod(lambda content: 1 / 0))  # between the rows and their checksum
    with pytest.raises(ZeroDivisionError):
        store.put(ALL, ROWS)
    monkeypatch.undo()
    assert file(tmp_path).missing(ALL).tolist() == [1, 2, 3]


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"a\.kv.*backbone\.prefixes\.disk"):
        file(tmp_path / "file")


def test_the_files_used_longest_ago_make_room(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "old", "oldest"]):
        (tmp_path / f"{name}.kv").write_bytes(b"0" * 10)
        os.utime(tmp_path / f"{name}.kv", (1000 - age, 1000 - age))
    make_room(tmp_path, tmp_path / "oldest.kv", 10, 25)
    assert {path.name for path in tmp_path.iterdir()} == {"new.kv", "oldest.kv"}


def test_groups_hold_each_item_once_by_length() -> None:
    lengths = np.array([0, 5, 3, 9, 3, 4])
    assert [group.tolist() for group in groups(lengths, 2)] == [[2, 4], [5, 1], [3]]


def test_another_model_tokenizer_template_or_title_is_another_file(
    tiny_backbone: Any, teacher: Any, settings: Any, tmp_path: Path
) -> None:
    def made(titles: list[str] = TITLES, **changes: Any) -> LLMSRec:
        of = settings.model_copy(update=changes)
        return LLMSRec(tiny_backbone, teacher, titles, of, 0, Budget(0, 1 << 30, tmp_path))

    made()
    made(d_prime=4, history=2)  # of no matter to items' prefixes
    assert len(list(tmp_path.iterdir())) == 1
    made([*TITLES[:2], "Tents"])
    made(title_tokens=2)
    assert len(list(tmp_path.iterdir())) == 3
    tokens = [np.array([1, 2]), np.array([2])]
    weight = next(tiny_backbone.model.parameters())
    before, value = digest(tiny_backbone.model, tokens), weight.view(-1)[0].item()
    weight.view(-1)[0] += 1
    assert digest(tiny_backbone.model, tokens) != before
    weight.view(-1)[0] = value
    assert digest(tiny_backbone.model, tokens) == before
    assert digest(tiny_backbone.model, [np.array([1, 3]), np.array([2])]) != before


def test_a_second_process_reads_what_the_first_computed(
    tiny_backbone: Any, teacher: Any, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(0, 1 << 30, tmp_path)
    first = LLMSRec(tiny_backbone, teacher, TITLES, settings, 0, budget)
    expected = first.hidden_items(ALL)
    again = LLMSRec(tiny_backbone, teacher, TITLES, settings, 0, budget)
    monkeypatch.setattr(ItemPrefixes, "_compute", lambda *_: pytest.fail("computed again"))
    assert torch.equal(again.hidden_items(ALL), expected)
