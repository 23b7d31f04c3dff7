"""One count of rules: a rule that only warned was counted as held in one place, and not in another."""

import pytest

from llmsrec.data.tally import tally


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ((), "4 rules hold"),
        (("warn",), "3 of 4 rules hold, 1 warns"),
        (("warn", "fail", "fail"), "1 of 4 rules hold, 1 warns, 2 fail"),
    ],
)
def test_rules_that_hold_are_counted_apart_from_those_that_warn(broken: tuple[str, ...], said: str) -> None:
    outcomes = [{"success": False, "level": level} for level in broken]
    outcomes += [{"success": True, "level": "warn"}] * (4 - len(broken))
    assert tally([{"expectations": outcomes[:2]}, {"expectations": outcomes[2:]}]) == said
