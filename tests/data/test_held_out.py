"""A split by time against a loop over each user's events, and that nothing after the cut is trained on."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.data import checks, held_out, split
from llmsrec.data.sequences import Sequences
from llmsrec.data.split import Cuts, cut, find_cuts, frame, split_interactions
from llmsrec.errors import DataError
from llmsrec.scoring import held_out_data

ITEMS = 12
USERS = st.lists(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 9)), min_size=3, max_size=8).map(
        lambda events: sorted(events, key=lambda event: event[1])
    ),
    min_size=1,
    max_size=6,
)


def filtered(folder, users):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(number, *event) for number, user in enumerate(users, start=1) for event in user]
    schema = {"user_id": pl.Int32, "item_id": pl.Int32, "timestamp": pl.Int64}
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(folder / "interactions.parquet")
    pl.DataFrame({"item_id": list(range(1, ITEMS + 1))}).write_parquet(folder / "items.parquet")
    return folder


def slow_cut(users, valid, test):
    """The definition: rows of train, and of valid and test (user, history, target)."""
    train, held = [], {"valid": [], "test": []}
    for user, events in enumerate(users, start=1):
        train += [(user, *event) for event in events if event[1] < valid]
        for name, start, end in (("valid", valid, test), ("test", test, 10**9)):
            before = [item for item, time in events if time < start]
            after = [item for item, time in events if start <= time < end]
            if before and after:
                held[name].append((user, before, after[0]))
    return train, held


@given(USERS, st.integers(1, 9), st.integers(0, 5))
def test_a_split_by_time_equals_the_loop(tmp_path_factory, users, valid, longer):
    folder = filtered(tmp_path_factory.mktemp("time"), users)
    sequences, cuts = Sequences.read(folder / "interactions.parquet"), Cuts(valid, valid + longer)
    parts = cut(sequences, cuts)
    train, held = slow_cut(users, cuts.valid, cuts.test)
    assert frame(parts["train"]).rows() == train
    for name, expected in held.items():
        frame(parts[name]).write_parquet(folder / f"{name}.parquet")
        asked = held_out.read(sequences, folder, name, "time")
        histories = [asked.histories.of(row)[0].tolist() for row in range(1, len(asked.users) + 1)]
        actual = list(zip(asked.users.tolist(), histories, asked.targets.tolist(), strict=True))
        assert actual == expected


@given(USERS)
def test_leave_last_out_asks_about_each_users_last_two_events(tmp_path_factory, users):
    sequences = Sequences.read(filtered(tmp_path_factory.mktemp("last"), users) / "interactions.parquet")
    for name, back in (("valid", 2), ("test", 1)):
        asked = held_out.read(sequences, tmp_path_factory.getbasetemp(), name, "last")
        assert asked.users.tolist() == list(range(1, len(users) + 1))
        assert asked.targets.tolist() == [user[-back][0] for user in users]
        assert [asked.histories.of(u)[0].tolist() for u in asked.users] == [[i for i, _ in u[:-back]] for u in users]


def shop(users=60, seed=0):
    """Users who come and go: some only before the cuts, some only after, most on both sides; items 11 and 12 late."""
    rng = np.random.default_rng(seed)
    table = []
    for _ in range(users):
        times = np.sort(rng.integers(0, 100, rng.integers(3, 9)) + rng.integers(0, 400))
        table.append([(int(rng.integers(1, 11 if time < 350 else 13)), int(time)) for time in times])
    return table


def test_nothing_after_the_first_cut_is_trained_on_and_new_users_and_items_are_counted(tmp_path):
    users = shop()
    folder = filtered(tmp_path / "f", users)
    manifest = split_interactions(folder, tmp_path / "s", 3, False, 0, (0.2, 0.2))
    times = sorted(time for user in users for _, time in user)
    cuts = manifest["time"]["cuts"]
    assert cuts == {"valid": times[int(len(times) * 0.6)], "test": times[int(len(times) * 0.8)]}
    parts = {name: pl.read_parquet(tmp_path / f"s/{name}.parquet") for name in ("train", "valid", "test")}
    assert parts["train"]["timestamp"].max() < cuts["valid"] <= parts["valid"]["timestamp"].min()
    assert parts["valid"]["timestamp"].max() < cuts["test"] <= parts["test"]["timestamp"].min()
    train, held = slow_cut(users, **cuts)
    assert parts["train"].rows() == train
    known = {item for _, item, _ in train}
    firsts = [user[0][1] for user in users]
    assert manifest["time"]["new_items"] == {
        name: sum(target not in known for _, _, target in of) for name, of in held.items()
    }
    assert manifest["time"]["new_items"]["test"] > 0
    assert manifest["time"]["new_users"] == {
        "valid": sum(cuts["valid"] <= first < cuts["test"] for first in firsts),
        "test": sum(first >= cuts["test"] for first in firsts),
    }
    assert json.loads((tmp_path / "s/manifest.json").read_text()) == manifest
    lists = pl.read_parquet(tmp_path / "s/candidates.parquet")
    for name, of in held.items():
        assert lists.filter(split=name).select("user_id", "item_id").rows() == [(user, item) for user, _, item in of]
    for user, negatives in lists.select("user_id", "negatives").rows():
        assert not {item for item, _ in users[user - 1]} & set(negatives)


def test_blocks_of_any_size_give_the_same_files(tmp_path, monkeypatch):
    folder = filtered(tmp_path / "f", shop(seed=1))
    for shares in (None, (0.2, 0.2)):
        whole = split_interactions(folder, tmp_path / "whole", 3, True, 5, shares)
        monkeypatch.setattr(split, "EVENTS", 17)
        split_interactions(folder, tmp_path / "cut", 3, True, 5, shares)
        monkeypatch.undo()
        for name in whole["outputs"]:
            one, other = (pl.read_parquet(tmp_path / place / name) for place in ("whole", "cut"))
            assert one.equals(other), name


def test_test_users_of_a_folder_are_those_of_its_split_by_time(tmp_path):
    folder = filtered(tmp_path / "filtered", shop())
    items = pl.read_parquet(folder / "items.parquet").with_columns(parent_asin=pl.format("B{}", "item_id"))
    items.write_parquet(folder / "items.parquet")
    split_interactions(folder, tmp_path / "split", 3, False, 0, (0.2, 0.2))
    users = held_out_data.read(tmp_path, 1000, 0).users
    test = pl.read_parquet(tmp_path / "split/test.parquet")
    assert users["user_id"].to_list() == test["user_id"].to_list()
    assert users["target"].to_list() == [f"B{item}" for item in test["item_id"]]
    assert users["negatives"].list.len().unique().to_list() == [3]


def test_a_cut_that_leaves_a_part_empty_is_refused_and_names_the_keys(tmp_path):
    users = [[(1, 5), (2, 5), (3, 5)]] * 4
    with pytest.raises(DataError, match=r"leaves train without an event.*split\.time\.valid.*split\.by to last"):
        split_interactions(filtered(tmp_path / "f", users), tmp_path / "s", 3, False, 0, (0.1, 0.1))


def test_the_cuts_leave_the_shares_that_were_asked_for(tmp_path):
    folder = filtered(tmp_path / "f", [[(1, time), (2, time + 1), (3, time + 2)] for time in range(0, 300, 3)])
    assert find_cuts(folder / "interactions.parquet", 0.1, 0.2) == Cuts(210, 240)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Raw, filtered and split data of a shop with repeats and a split by time."""
    folder = tmp_path_factory.mktemp("sound")
    users = shop(seed=2)
    filtered(folder / "filtered", users)
    asins = [f"B{item}" for item in range(1, ITEMS + 1)]
    split_interactions(folder / "filtered", folder / "split", 3, False, 0, (0.2, 0.2))
    events = pl.read_parquet(folder / "filtered/interactions.parquet")
    return folder, events, asins


def table(sound, cuts, change=None):
    """The table of split users, and which of the rules on it fail."""
    folder, events, _ = sound
    names = [name for name in checks.tables.SCHEMA if name.startswith("split/")]
    files = {name: pl.read_parquet(folder / f"{name}.parquet") for name in names} | {"filtered/interactions": events}
    if change:
        change(files)
    frame = checks.tables.split_users({name: of.lazy() for name, of in files.items()}, cuts)
    context = checks.gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    suites = checks.rules.suites(1, 3, ITEMS, repeats="keep", by="time")
    suite = next(suite for suite in suites if suite.table == "split.users")
    result = checks.validate(context, suite, frame.to_pandas())
    return {of.expectation_config.meta["rule"] for of in result.results if not of.success}


def later(files):
    """A validation event is trained on: it was after the cut."""
    moved = files["split/valid"].head(1)
    files["split/train"] = pl.concat([files["split/train"], moved])
    files["split/valid"] = files["split/valid"].tail(-1)


def leaked(files):
    """An event after the cut that is no target is trained on."""
    held = pl.concat([files["split/valid"], files["split/test"], files["split/train"]])
    extra = files["filtered/interactions"].join(held, on=["user_id", "item_id", "timestamp"], how="anti").tail(1)
    files["split/train"] = pl.concat([files["split/train"], extra])


def test_the_checks_of_a_split_by_time_pass_good_data_and_notice_a_leak(sound):
    cuts = json.loads((sound[0] / "split/manifest.json").read_text())["time"]["cuts"]
    assert table(sound, cuts) == set()
    assert {"train", "valid_item"} <= table(sound, cuts, later)
    assert "train" in table(sound, cuts, leaked)
    assert "test_item" in table(sound, {**cuts, "test": cuts["test"] - 30})
