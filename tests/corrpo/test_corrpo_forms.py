"""Reward forms against hand-worked numbers, and the trap of groups without variance."""

import pytest
import torch

from inversion.corrpo.forms import FORMS, Responses, bonus, parse_forms
from inversion.errors import InputError

# Three groups of four: mixed, all wrong, all right.
REWARD = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1])
RHO = torch.tensor([-0.5, 0.25, 0, 0.5, -0.4, -0.2, 0.2, 0.4, -0.5, 0, 0.5, 1])
LENGTH = torch.tensor([32.0, 96, 32, 32, 32, 32, 32, 96, 32, 32, 32, 32])
RESPONSES = Responses(REWARD, LENGTH, 4)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("additive", [0.5, -0.25, 0, -0.5, 0.4, 0.2, -0.2, -0.4, 0.5, 0, -0.5, -1]),
        ("right_only", [0.5, 0, 0, -0.5, 0, 0, 0, 0, 0.5, 0, -0.5, -1]),
        ("mixed_groups", [0.5, -0.25, 0, -0.5, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("shrunk", [0.25, -0.1875, 0, -0.25, 0.2, 0.1, -0.1, -0.3, 0.25, 0, -0.25, -0.5]),
        ("target", [0, -0.75, -0.5, -1, -0.1, -0.3, -0.7, -0.9, 0, -0.5, -1, -1.5]),
        ("mixed_groups+right_only+shrunk", [0.25, 0, 0, -0.25, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("right_only+target", [0, 0, 0, -1, 0, 0, 0, 0, 0, -0.5, -1, -1.5]),
    ],
)
def test_forms_by_hand(form, expected):
    torch.testing.assert_close(bonus(RHO, RESPONSES, 1.0, form), torch.tensor(expected))
    torch.testing.assert_close(bonus(RHO, RESPONSES, -0.2, form), -0.2 * torch.tensor(expected))


def test_a_threshold_makes_partial_credit_right_or_wrong():
    partial = Responses(REWARD * 0.6, LENGTH, 4, right_at=0.5)
    torch.testing.assert_close(bonus(RHO, partial, 1.0), bonus(RHO, RESPONSES, 1.0))
    assert bonus(RHO, Responses(REWARD * 0.6, LENGTH, 4), 1.0).count_nonzero() == 0


def test_unscorable_responses_stay_unscorable():
    reward = REWARD.clone()
    reward[1] = torch.nan
    gained = bonus(RHO, Responses(reward, LENGTH, 4), 1.0)
    assert gained.isnan().tolist() == [i == 1 for i in range(12)]


def group_advantages(reward):
    grouped = reward.view(-1, 4)
    return (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)


@pytest.mark.parametrize("weight", [0.1, 0.01])
def test_additive_blows_noise_up_where_the_task_says_nothing_and_the_default_does_not(weight):
    mixed, wrong, right = group_advantages(REWARD + bonus(RHO, RESPONSES, weight, "additive"))
    # However small the weight, the groups without task variance get advantages as large as the one with it.
    assert wrong.abs().max() > 0.8 * mixed.abs().max()
    assert right.abs().max() > 0.8 * mixed.abs().max()
    mixed, wrong, right = group_advantages(REWARD + bonus(RHO, RESPONSES, weight))
    assert wrong.count_nonzero() == 0
    assert right.count_nonzero() == 0
    # Where the task does set the scale, the bonus moves advantages in proportion to its weight.
    shift = (mixed - group_advantages(REWARD)[0]).abs().max()
    assert 0 < shift < 2 * weight


def test_names_of_forms():
    assert parse_forms("shrunk + target") == [FORMS["target"], FORMS["shrunk"]]
    with pytest.raises(InputError, match=r"bonus.*choose among additive"):
        parse_forms("bonus")
