"""How rho enters the reward. The paper's formula was not available, so every form here is our reading of it.

A form takes the penalties of a batch and returns them changed; forms chain, ``mixed_groups+shrunk``. The penalty
starts as rho, and what a response's reward gains is ``-weight * penalty``.

A penalty of NaN says that the response is left out of the term: its rho is undefined, or a form does not apply to it.
It then gets the mean penalty of its group, so that its advantage from the term is exactly 0. A fixed value such as 0
would be a prize for whoever is left out wherever the others have a positive rho: a policy wins it by short responses.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from inversion.errors import InputError


@dataclass(frozen=True)
class Responses:
    """A batch of n scored responses, the ``group_size`` responses to a prompt next to each other.

    reward: Task reward, (n,); NaN where nothing could score the response.
    n_tokens: Length of the response, (n,).
    group_size: Responses a prompt.
    right_at: Task reward from which a response counts as right.
    target: The rho that the form ``target`` steers to.
    shrink_tokens: Length at which the form ``shrunk`` halves a penalty.
    """

    reward: Tensor
    n_tokens: Tensor
    group_size: int
    right_at: float = 1.0
    target: float = -0.5
    shrink_tokens: float = 32.0

    @property
    def right(self) -> Tensor:
        """Which responses are right, (n,), 0.0 or 1.0; NaN where nothing could score the response."""
        right = (self.reward >= self.right_at).to(self.reward.dtype)
        return right.masked_fill(self.reward.isnan(), torch.nan)


Form = Callable[[Tensor, Responses], Tensor]


def additive(penalty: Tensor, responses: Responses) -> Tensor:
    """``r - weight * rho`` for every response. Our reading of the objective's plainest form.

    Trap: in a group that is all wrong (or all right) the task reward has no variance, so what remains is rho, and
    dividing by the group's standard deviation blows it up to full size however small the weight.
    """
    return penalty


def right_only(penalty: Tensor, responses: Responses) -> Tensor:
    """Only right responses gain or lose by rho: no reward for being wrong in the right way. Our reading.

    Groups that are all wrong are safe; groups that are all right still fall into the trap of :func:`additive`.
    """
    return penalty.masked_fill(responses.right != 1, torch.nan)


def mixed_groups(penalty: Tensor, responses: Responses) -> Tensor:
    """Only in groups that hold both right and wrong responses, so that the task always sets the scale. Our reading.

    A group without variance in correctness keeps zero advantage, as in GRPO: no trap.
    """
    share = group_mean(responses.right, responses.group_size)
    return penalty.masked_fill((share == 0) | (share == 1), torch.nan)


def shrunk(penalty: Tensor, responses: Responses) -> Tensor:
    """The rho of a response of n tokens is drawn to its group's mean, by n / (n + ``shrink_tokens``). Our reading.

    A short response's rho is mostly noise. Drawn to 0 instead, a short response would win wherever rho is positive.
    """
    centre = group_mean(penalty, responses.group_size)
    return centre + (penalty - centre) * responses.n_tokens / (responses.n_tokens + responses.shrink_tokens)


def target(penalty: Tensor, responses: Responses) -> Tensor:
    """The distance to a wanted rho, ``|rho - target|``, instead of rho: nothing is gained beyond it. Our reading."""
    return (penalty - responses.target).abs()


FORMS: dict[str, Form] = {form.__name__: form for form in (additive, target, right_only, mixed_groups, shrunk)}


def parse_forms(names: str) -> list[Form]:
    """Read ``mixed_groups+shrunk``; ``target`` replaces rho, so it comes first whatever its place."""
    chosen = [name.strip() for name in names.split("+")]
    unknown = [name for name in chosen if name not in FORMS]
    if unknown:
        raise InputError(f"reward form {unknown[0]!r} is not known; choose among {', '.join(FORMS)}, joined by +.")
    return [form for name, form in FORMS.items() if name in chosen]


def bonus(rho: Tensor, responses: Responses, weight: float, forms: str = "mixed_groups") -> Tensor:
    """Return what each response's reward gains, (n,), in units of the reward.

    Args:
        rho: The inversion within each response, (n,), NaN where undefined.
        responses: The batch.
        weight: Of the penalty; a negative one rewards the opposite of the inversion.
        forms: Names of forms, joined by ``+``.

    Returns:
        The gain; for a response that is left out of the term, its group's mean, and 0 where the whole group is. NaN
        where the task reward is NaN, so that an unscorable response stays one.
    """
    unscorable = responses.reward.isnan()
    # What cannot be scored has no advantage; it must not set the others' mean either.
    penalty = rho.masked_fill(unscorable, torch.nan)
    for form in parse_forms(forms):
        penalty = form(penalty, responses)
    filled = torch.where(penalty.isnan(), group_mean(penalty, responses.group_size), penalty).nan_to_num(0.0)
    return torch.where(unscorable, torch.nan, -weight * filled)


def group_mean(values: Tensor, group_size: int) -> Tensor:
    """Return the mean of each response's group over what is not NaN, (n,); NaN where nothing is left."""
    return values.view(-1, group_size).nanmean(1).repeat_interleave(group_size)
