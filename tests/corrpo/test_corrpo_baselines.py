"""Every baseline's loss against numbers worked out by hand, and its trainer against GRPO."""

import math
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from corrpo_samples import TOKENIZER, make, policy, settings
from trl.trainer.grpo_trainer import GRPOTrainer

from inversion.corrpo import CorrPOConfig
from inversion.corrpo.baselines import METHODS
from inversion.corrpo.baselines.losses import (
    clip_cov_tokens,
    kl_cov_penalty,
    kl_cov_tokens,
    nucleus_entropy,
    peak_entropy,
    siren_penalty,
)
from inversion.corrpo.baselines.trainers import ClipCovTrainer, KLCovTrainer, SirenTrainer
from inversion.corrpo.covariance import mean_covariance, token_covariance
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


def test_mean_covariance_is_numpys():
    generator = torch.Generator().manual_seed(0)
    log_probs, mask = torch.randn(3, 7, generator=generator), (torch.rand(3, 7, generator=generator) < 0.7).long()
    advantages = torch.tensor([[1.0], [-0.5], [0.25]])
    kept = mask.bool()
    pairs = np.stack([log_probs[kept].numpy(), advantages.expand_as(log_probs)[kept].numpy()])
    found = mean_covariance(log_probs, advantages, mask)
    assert found == pytest.approx(np.cov(pairs, bias=True)[0, 1], abs=1e-6)
    assert math.isnan(mean_covariance(log_probs, advantages, mask * 0))


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
    one = kl_cov_penalty(LOG_PROBS, old, kl_cov_tokens(LOG_PROBS, ADVANTAGES, MASK))
    torch.testing.assert_close(one, torch.tensor([[0.3, 0, 0], [0, 0, 0]]))
    half = kl_cov_penalty(LOG_PROBS, old, kl_cov_tokens(LOG_PROBS, ADVANTAGES, MASK, share=0.5))
    torch.testing.assert_close(half, torch.tensor([[0.3, 0, 0.2], [0, 0, 0]]))


def test_kl_cov_does_nothing_with_one_update_a_rollout():
    log_probs = LOG_PROBS.clone().requires_grad_()
    penalty = kl_cov_penalty(log_probs, log_probs.detach(), kl_cov_tokens(log_probs, ADVANTAGES, MASK, share=1.0))
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


# A batch to work through by hand: two responses, of three tokens and of one, with advantages 1 and -1.
RATIOS = torch.tensor([[1.5, 1.1, 0.5], [0.6, 1, 1]])
ENTROPIES = torch.tensor([[0.1, 0.2, 0.3], [2.0, 9, 9]])
# Means over the four tokens: log-probability -6, advantage 0.5; so covariances -0.5, 2.5, -1.5 and 1.5.
HAND_LOG_PROBS = torch.tensor([[-7.0, -1, -9], [-7, -9, -9]])
CLIPPED = [-1.2, -1.1, -0.5, 0.8]  # -min(ratio * A, ratio clipped to 0.8..1.2 * A)
BY_HAND = {
    "corrpo": (sum(CLIPPED[:3]) / 3 + CLIPPED[3]) / 2,
    "grpo": (sum(CLIPPED[:3]) / 3 + CLIPPED[3]) / 2,
    "dr_grpo": sum(CLIPPED) / (2 * 12),  # responses are at most 12 tokens long
    "dapo": (-1.28 - 1.1 - 0.5 + 0.8) / 4,
    "clip_cov": sum(CLIPPED) / 4,
    "kl_cov": (-1.5 - 1.1 - 0.5 + 0.6) / 4 + abs(math.log(1.1)) / 4,  # the second token has the largest covariance
    "high_entropy": CLIPPED[3] / 4,  # one token of four lies above the 0.8 quantile
    "entropy_bonus": sum(CLIPPED) / 4 - 0.001 * (0.1 + 0.2 + 0.3 + 2.0) / 4,
}


@pytest.mark.parametrize("name", ["corrpo", "corrpo_flipped", "corrpo_shuffled", "direct"])
def test_what_is_compared_with_grpo_differs_from_it_in_rho_alone(name):
    without = {"inversion_control", "inversion_loss_weight", "beta"}
    options = {field: value for field, value in METHODS[name].options(0).items() if field not in without}
    assert options == METHODS["grpo"].options(0)
    assert METHODS[name].trainer is METHODS["grpo"].trainer


def hand_batch(log_probs):
    return {
        "prompt_ids": torch.ones(2, 1, dtype=torch.long),
        "prompt_mask": torch.ones(2, 1, dtype=torch.long),
        "completion_ids": torch.zeros(2, 3, dtype=torch.long),
        "completion_mask": MASK.long(),
        "advantages": ADVANTAGES[:, 0],
        "num_items_in_batch": torch.tensor(4),
        "old_per_token_logps": log_probs.detach() - RATIOS.log(),
    }


def hand_trainer(name, folder):
    method = METHODS[name]
    trainer = make(method.trainer, CorrPOConfig, folder, **method.options())
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


@pytest.mark.parametrize("name", BY_HAND)
def test_every_loss_by_hand(tmp_path, name, monkeypatch):
    log_probs = HAND_LOG_PROBS.clone().requires_grad_()
    given = log_probs, ENTROPIES, None
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", lambda *_, **__: given)
    trainer = hand_trainer(name, tmp_path)
    loss = trainer._compute_loss(trainer.model, hand_batch(log_probs))
    assert loss.item() == pytest.approx(BY_HAND[name], abs=1e-6)
    if name in ("corrpo", "clip_cov"):
        loss.backward()
        # -ratio * A over tokens and responses, or over all tokens; 0 where clipping holds. Clip-Cov drops the second
        # token, whose covariance is 2.5.
        expected = [[0, -1.1 / 6, -0.5 / 6] if name == "corrpo" else [0, 0, -0.5 / 4], [0, 0, 0]]
        torch.testing.assert_close(log_probs.grad, torch.tensor(expected))


def test_siren_loss_by_hand(tmp_path):
    flat, sharp = [0.25] * 4, [0.9, 0.05, 0.03, 0.02]
    # One row more than there are tokens: the last one writes nothing.
    logits = torch.tensor([[flat, sharp, sharp, flat], [flat, sharp, sharp, flat]]).log().requires_grad_()
    trainer = hand_trainer("siren", tmp_path)
    # Nucleus entropies log 3, 0, 0 and log 3; the peaks are the two of log 3.
    trainer.anchor = math.log(3) - 2
    own = torch.tensor([[0.25, 0.9, 0.9]] * 2).log()
    loss = trainer._compute_loss(lambda **_: SimpleNamespace(logits=logits), hand_batch(own))
    assert loss.item() == pytest.approx(sum(CLIPPED) / (2 * 12) + 0.005 * 2**2, abs=1e-6)


def test_every_method_is_worked_through_by_hand():
    # That of "direct" is in test_direct.py.
    assert {*BY_HAND, "siren", "corrpo_flipped", "corrpo_shuffled", "direct"} == set(METHODS)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "siren"])
def test_advantages_by_hand(tmp_path, name):
    def right_once(completion_ids, **_):
        return [1.0, 0, 0, 0] * (len(completion_ids) // 4)

    method = METHODS[name]
    trainer = make(method.trainer, CorrPOConfig, tmp_path, reward=right_once, **method.options())
    trainer.model.train()
    advantages = trainer._generate_and_score_completions([{"prompt": "1 + 2 ="}] * 4)["advantages"]
    centred = torch.tensor([0.75, -0.25, -0.25, -0.25])
    # Of 1, 0, 0, 0 the standard deviation is 1/2.
    torch.testing.assert_close(advantages, centred / (0.5 + 1e-4) if name == "grpo" else centred)


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


def test_tokens_are_chosen_in_the_whole_rollout_if_asked_to(tmp_path):
    class Half(KLCovTrainer):
        share = 0.5

    class Seen(Half):
        batches: ClassVar[list] = []

        def batch_loss(self, model, inputs):
            self.batches.append((self._chosen(None, inputs), self.token_mask(inputs).sum().item()))
            return super().batch_loss(model, inputs)

    def half(completion_ids, **_):
        return [float(i % 2) for i, _ in enumerate(completion_ids)]

    options = {"loss_type": "dapo", "num_iterations": 2, "per_device_train_batch_size": 4, "max_steps": 2}
    trainer = make(
        Seen,
        CorrPOConfig,
        tmp_path,
        reward=half,
        covariance_over="rollout",
        gradient_accumulation_steps=2,
        **options,
    )
    trainer.train()
    first = Seen.batches[:2]
    chosen, tokens = [int(c.sum()) for c, _ in first], [t for _, t in first]
    # Half of all tokens, but not half of those of each micro-batch.
    assert sum(chosen) == sum(tokens) // 2
    assert chosen != [t // 2 for t in tokens]
    with pytest.raises(InputError, match="num_iterations"):
        make(KLCovTrainer, CorrPOConfig, tmp_path, loss_type="dapo", covariance_over="rollout")
    with pytest.raises(InputError, match="choose among"):
        CorrPOConfig(**settings(tmp_path, covariance_over="epoch"))


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
    start = policy()  # from a folder, where TRL finds the model that "direct" is anchored to
    start.save_pretrained(tmp_path / "start")
    start = type(start).from_pretrained(tmp_path / "start")
    trainer = make(method.trainer, CorrPOConfig, tmp_path, start, max_steps=2, num_iterations=2, **method.options())
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert any("rho" in row for row in trainer.state.log_history)


def test_settings_are_options_of_trl_and_ours(tmp_path):
    for method in METHODS.values():
        CorrPOConfig(**settings(tmp_path, **method.options()))
