"""The small MLPs: their shapes, and how f_user and f_item start."""

import torch

from llmsrec.models.llm import heads


def test_shapes() -> None:
    assert heads.f_llm(12, 20, 5)(torch.ones(3, 12)).shape == (3, 5)
    assert heads.f_cf_user(8, 5)(torch.ones(3, 8)).shape == (3, 5)
    assert heads.f_input(8, 12)(torch.ones(3, 8)).shape == (3, 12)


def test_a_standardised_head_reads_raw_states_as_the_plain_one_reads_standardised_ones() -> None:
    torch.manual_seed(0)
    head, plain = heads.f_llm(12, 20, 5), heads.f_llm(12, 20, 5)
    plain.load_state_dict(head.state_dict())
    hidden = 40 + torch.randn(500, 12) * torch.linspace(0.1, 9, 12)
    heads.standardise(head, hidden)
    expected = plain((hidden - hidden.mean(dim=0)) / hidden.std(dim=0))
    torch.testing.assert_close(head(hidden), expected, rtol=1e-3, atol=1e-3)


def test_a_dimension_that_never_changes_is_no_division_by_zero() -> None:
    head = heads.f_llm(4, 6, 2)
    hidden = torch.randn(9, 4)
    hidden[:, 2] = 0.5
    heads.standardise(head, hidden)
    assert torch.isfinite(head(hidden)).all()
