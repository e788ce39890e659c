"""Reward forms against hand-worked numbers, and the trap of groups without variance."""

import numpy as np
import pytest
import torch

from inversion.corrpo.forms import FORMS, Responses, bonus, parse_forms
from inversion.corrpo.gaming import prizes, signs
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
        # Towards the groups' means, 1/16, 0 and 1/4: by half, and by a quarter for the long ones.
        (
            "shrunk",
            [0.21875, -0.203125, -0.03125, -0.28125, 0.2, 0.1, -0.1, -0.3, 0.125, -0.125, -0.375, -0.625],
        ),
        ("target", [0, -0.75, -0.5, -1, -0.1, -0.3, -0.7, -0.9, 0, -0.5, -1, -1.5]),
        ("mixed_groups+right_only+shrunk", [0.25, 0, 0, -0.25, 0, 0, 0, 0, 0, 0, 0, 0]),
        # The wrong ones of the first group get the mean of the right ones, 0 and 1.
        ("right_only+target", [0, -0.5, -0.5, -1, 0, 0, 0, 0, 0, -0.5, -1, -1.5]),
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


CHAINS = [*FORMS, "mixed_groups+right_only+shrunk", "target+shrunk", "right_only+target"]
UNDEFINED = {
    "all short": [1, 1, 1, 1],
    "one defined": [1, 1, 1, 0],
    "two defined": [1, 0, 1, 0],
    "one undefined": [0, 0, 0, 1],
}


@pytest.mark.parametrize("form", CHAINS)
@pytest.mark.parametrize("case", UNDEFINED)
@pytest.mark.parametrize("level", [-0.6, 0.0, 0.6])
def test_an_undefined_rho_is_neither_a_prize_nor_a_penalty(form, case, level):
    out = torch.tensor(UNDEFINED[case] * 3, dtype=torch.bool)
    # Short as well, and rho may be high, low or around 0 in those that have one.
    lengths = torch.where(out, 1.0, LENGTH)
    gained = bonus((RHO / 2 + level).masked_fill(out, torch.nan), Responses(REWARD, lengths, 4), 1.0, form)
    assert gained.isfinite().all()
    for group, undefined in zip(gained.view(-1, 4), out.view(-1, 4), strict=True):
        assert (group[undefined] - group.mean()).abs().max() < 1e-6
        if case == "one defined":
            assert (group - group.mean()).abs().max() < 1e-6


@pytest.mark.parametrize("form", CHAINS)
@pytest.mark.parametrize("level", [-0.6, 0.6])
def test_nothing_pays_where_all_have_the_same_rho(form, level):
    # Neither being short nor being wrong does: rho is all that the term may pay for.
    gained = bonus(torch.full((12,), level), Responses(REWARD, torch.arange(12.0) + 1, 4), 1.0, form).view(-1, 4)
    assert (gained - gained.mean(1, keepdim=True)).abs().max() < 1e-6


def test_unscorable_responses_are_in_nobodys_mean():
    reward = REWARD.clone()
    reward[3] = torch.nan
    rho = RHO.masked_fill(torch.arange(12) == 1, torch.nan)
    gained = bonus(rho, Responses(reward, LENGTH, 4), 1.0, "additive")
    torch.testing.assert_close(gained[:3], torch.tensor([0.5, 0.25, 0.0]))
    # A group of right and unscorable responses is not a mixed one.
    reward[:4] = torch.tensor([1, 1, 1, torch.nan])
    assert bonus(rho, Responses(reward, LENGTH, 4), 1.0)[:3].count_nonzero() == 0


def test_prizes_by_hand():
    lengths = torch.tensor([1.0, 2, 3, 4, 10, 11, 12, 13])
    assert prizes(lengths * 0.2 - 5, lengths, 4) == pytest.approx(1)
    # Groups differ in length, but that is no choice of the policy's.
    flat = torch.tensor([1.0, -1, -1, 1, 5, 3, 3, 5])
    assert prizes(flat, lengths, 4) == pytest.approx(0)
    assert np.isnan(prizes(torch.full((8,), 0.3), lengths, 4))
    flat[0] = torch.nan
    x, y = lengths[1:].clone(), flat[1:].clone()
    for part in (slice(0, 3), slice(3, 7)):
        x[part] -= x[part].mean()
        y[part] -= y[part].mean()
    assert prizes(flat, lengths, 4) == pytest.approx(float(np.corrcoef(x, y)[0, 1]), abs=1e-6)


def test_signs_by_hand():
    found = signs([[7, 8, 7, 8, 7, 8, 1], [5]], ["so 3 then", ""], [1])
    assert found == {"length": [7, 1], "repetition": [0.25, 0], "filler": [1, 0], "end": [1, 0]}


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
