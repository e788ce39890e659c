"""Every baseline's loss against numbers worked out by hand, and its trainer against GRPO."""

import math

import pytest
import torch
from corrpo_samples import TOKENIZER, make, policy, settings
from trl.trainer.grpo_trainer import GRPOTrainer

from inversion.corrpo import CorrPOConfig
from inversion.corrpo.baselines import METHODS
from inversion.corrpo.baselines.losses import (
    clip_cov_tokens,
    kl_cov_penalty,
    nucleus_entropy,
    peak_entropy,
    siren_penalty,
    token_covariance,
)
from inversion.corrpo.baselines.trainers import ClipCovTrainer, KLCovTrainer, SirenTrainer
from inversion.errors import InputError

# Two responses, of three tokens and of one. Means over the four: log-probability -2, advantage 0.5.
LOG_PROBS = torch.tensor([[-1.0, -4.0, -2.0], [-1.0, -9.0, -9.0]])
ADVANTAGES = torch.tensor([[1.0], [-1.0]])
MASK = torch.tensor([[1.0, 1, 1], [1, 0, 0]])


def test_token_covariance_by_hand():
    found = token_covariance(LOG_PROBS, ADVANTAGES, MASK)
    # (log p + 2) * (A - 0.5)
    expected = torch.tensor([[0.5, -1.0, 0.0], [-1.5, -math.inf, -math.inf]])
    torch.testing.assert_close(found, expected)


def test_clip_cov_takes_tokens_between_the_bounds():
    def chosen(old=LOG_PROBS, **options):
        return clip_cov_tokens(LOG_PROBS, old, ADVANTAGES, MASK, **options).nonzero().tolist()

    assert chosen(low=0.4, high=1.0) == [[0, 0]]
    assert chosen(low=0.5, high=1.0) == []
    assert chosen(low=-2, high=1, share=1.0) == [[0, 0], [0, 1], [0, 2], [1, 0]]
    assert len(chosen(low=-2, high=1, share=0.5)) == 2
    assert len(chosen(low=-2, high=1)) == 1
    # The ratio of token (0, 0) is e, beyond 1.2 with a positive advantage: clipping holds it already.
    old = LOG_PROBS.clone()
    old[0, 0] -= 1
    assert chosen(old, low=0.4, high=1.0) == []
    # Below 1, a positive advantage is not clipped.
    old[0, 0] += 2
    assert chosen(old, low=0.4, high=1.0) == [[0, 0]]


def test_kl_cov_by_hand():
    old = LOG_PROBS + torch.tensor([[0.3, 0.1, -0.2], [0.4, 5.0, 5.0]])
    one = kl_cov_penalty(LOG_PROBS, old, ADVANTAGES, MASK)
    torch.testing.assert_close(one, torch.tensor([[0.3, 0, 0], [0, 0, 0]]))
    half = kl_cov_penalty(LOG_PROBS, old, ADVANTAGES, MASK, share=0.5)
    torch.testing.assert_close(half, torch.tensor([[0.3, 0, 0.2], [0, 0, 0]]))


def test_kl_cov_does_nothing_with_one_update_a_rollout():
    log_probs = LOG_PROBS.clone().requires_grad_()
    penalty = kl_cov_penalty(log_probs, log_probs.detach(), ADVANTAGES, MASK, share=1.0)
    penalty.sum().backward()
    assert penalty.sum() == 0
    assert log_probs.grad.count_nonzero() == 0


def test_nucleus_entropy_by_hand():
    probs = torch.tensor([[0.4, 0.1, 0.3, 0.2], [0.05, 0.9, 0.03, 0.02], [0.25, 0.25, 0.25, 0.25]])
    # 0.4 + 0.3 = 0.7; 0.2 more crosses 0.8 and is left out. 0.9 alone crosses it and stays. Three quarters fit.
    expected = torch.tensor([-(4 / 7 * math.log(4 / 7) + 3 / 7 * math.log(3 / 7)), 0.0, math.log(3)])
    torch.testing.assert_close(nucleus_entropy(probs.log()), expected)
    logits = probs.log().requires_grad_()
    nucleus_entropy(logits).sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 1].abs() < 1e-6


def test_peak_entropy_by_hand():
    entropy = torch.tensor([[1.0, 2, 3, 4, 5, 6], [10.0, 20, 99, 99, 99, 99], [7.0, 7, 7, 7, 7, 7]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    # 0.8 quantiles: 5 and 18; at or above them 5, 6 and 20.
    torch.testing.assert_close(peak_entropy(entropy, mask), torch.tensor(31 / 3))
    torch.testing.assert_close(siren_penalty(torch.tensor(2.5), 2.0), torch.tensor(0.25))


def loss_of(trainer_class, folder, inputs, **options):
    trainer = make(trainer_class, CorrPOConfig, folder, **options)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return trainer, loss.item(), trainer.model.lm_head.weight.grad.clone()


def batch(old_shift=0.0):
    generator = torch.Generator().manual_seed(0)
    prompt, completion = (torch.randint(2, len(TOKENIZER), (4, n), generator=generator) for n in (3, 6))
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": completion,
        "completion_mask": torch.ones_like(completion),
        "advantages": torch.tensor([1.0, -1.0, 0.5, -0.5]),
        "num_items_in_batch": torch.tensor(24),
    }
    if old_shift:
        logits = policy()(input_ids=torch.cat([prompt, completion], 1)).logits[:, 2:-1].detach()
        inputs["old_per_token_logps"] = logits.log_softmax(-1).gather(-1, completion[..., None])[..., 0] + old_shift
    return inputs


def test_clip_cov_drops_gradients_and_nothing_else(tmp_path):
    class Everything(ClipCovTrainer):
        share, low, high = 1.0, -100.0, 100.0

    class Nothing(ClipCovTrainer):
        low, high = 100.0, 101.0

    _, plain, gradient = loss_of(GRPOTrainer, tmp_path, batch())
    _, kept, same_gradient = loss_of(Nothing, tmp_path, batch())
    _, dropped, none = loss_of(Everything, tmp_path, batch())
    assert kept == plain == dropped
    assert torch.equal(gradient, same_gradient)
    assert none.count_nonzero() == 0
    assert gradient.count_nonzero() > 0


def test_kl_cov_adds_the_penalty_over_the_tokens(tmp_path):
    class All(KLCovTrainer):
        share = 1.0

    wide = {"epsilon": 1e9, "epsilon_high": 1e9}
    _, plain, _ = loss_of(GRPOTrainer, tmp_path, batch(0.25), **wide)
    _, found, _ = loss_of(All, tmp_path, batch(0.25), **wide)
    # 24 tokens, each 0.25 from the old policy, over 24 tokens.
    assert found - plain == pytest.approx(0.25, abs=1e-4)
    with pytest.raises(InputError, match="dapo"):
        make(KLCovTrainer, CorrPOConfig, tmp_path, loss_type="grpo")


def test_siren_is_grpo_until_the_entropy_moves(tmp_path):
    _, plain, gradient = loss_of(GRPOTrainer, tmp_path, batch())
    trainer, found, same_gradient = loss_of(SirenTrainer, tmp_path, batch())
    assert found == pytest.approx(plain, abs=1e-6)
    torch.testing.assert_close(gradient, same_gradient, atol=1e-6, rtol=1e-4)
    start = trainer.anchor
    trainer.anchor = start - 2.0
    moved = trainer._compute_loss(trainer.model, batch()).item()
    assert moved - found == pytest.approx(0.005 * 2.0**2, rel=1e-3)


def test_siren_keeps_its_anchor_over_a_restart(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = make(SirenTrainer, CorrPOConfig, tmp_path, **options)
    whole.train()
    again = make(SirenTrainer, CorrPOConfig, tmp_path, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.anchor == whole.anchor
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(tmp_path, name):
    method = METHODS[name]
    trainer = make(method.trainer, CorrPOConfig, tmp_path, max_steps=2, num_iterations=2, **method.options())
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert any("rho" in row for row in trainer.state.log_history)


def test_settings_are_options_of_trl_and_ours(tmp_path):
    for method in METHODS.values():
        CorrPOConfig(**settings(tmp_path, **method.options()))
