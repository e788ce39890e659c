"""The differentiable term: its value against the signal, its gradient against finite differences, and what it does."""

import numpy as np
import pytest
import torch
from corrpo_samples import TOKENIZER, data, even_tokens, make, policy, settings
from test_corrpo_signals import PROMPTS, RESPONSES
from test_corrpo_trainer import column, distance, weights_after
from torch.nn.utils.rnn import pad_sequence
from transformers import TrainerCallback

from inversion.corrpo import CorrPOConfig, CorrPOTrainer, LastLayer
from inversion.corrpo.baselines.trainers import SirenTrainer
from inversion.corrpo.direct import (
    ENTROPY_FLOOR,
    allow_second_order,
    inversion_loss,
    log_correlation,
    mean_log_strength,
    token_entropy,
    token_strength,
    watching,
)
from inversion.errors import InputError


def batch():
    """Prompts padded on the left, responses on the right, as the trainer has them."""
    left = pad_sequence([torch.tensor(p[::-1]) for p in PROMPTS], batch_first=True).flip(1)
    right = pad_sequence([torch.tensor(r) for r in RESPONSES], batch_first=True)
    mask = pad_sequence([torch.ones(len(r), dtype=torch.bool) for r in RESPONSES], batch_first=True)
    prompt_mask = pad_sequence([torch.ones(len(p), dtype=torch.bool) for p in PROMPTS], batch_first=True).flip(1)
    return torch.cat([left, right], 1), torch.cat([prompt_mask, mask], 1).long(), mask


def read(model):
    ids, attention, mask = batch()
    with watching(model) as seen:
        # Families without relative positions count from the first token that is not padding.
        positions = (attention.cumsum(1) - 1).clamp_min(0)
        model(input_ids=ids, attention_mask=attention, position_ids=positions, use_cache=False)
    return token_strength(seen, model, ids, mask), token_entropy(seen, model, mask), mask


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "mistral", "gpt_neo", "gptj", "opt", "phi"])
def test_strength_and_entropy_are_those_of_the_signal(family):
    model = policy(family)
    strength, bits, mask = read(model)
    readings = LastLayer()(model, PROMPTS, RESPONSES)
    np.testing.assert_allclose(strength.detach(), np.concatenate([r.strength for r in readings]), rtol=2e-3)
    np.testing.assert_allclose(bits.detach(), np.concatenate([r.entropy_bits for r in readings]), rtol=1e-3)
    rho = log_correlation(strength, bits, mask, 3)
    for found, r in zip(rho.tolist(), readings, strict=True):
        expected = np.corrcoef(np.log(r.strength), np.log(r.entropy_bits + ENTROPY_FLOOR))[0, 1]
        assert found == pytest.approx(expected, abs=1e-3)
    levels = mean_log_strength(strength, mask, 3).tolist()
    assert levels == pytest.approx([np.log2(r.strength).mean() for r in readings], rel=1e-3)


def term(model, target):
    strength, bits, mask = read(model)
    return inversion_loss(log_correlation(strength, bits, mask, 3), target)


@pytest.mark.parametrize("target", [None, -0.5])
def test_the_gradient_is_that_of_finite_differences(target):
    # Not relu: a strength is a gradient, and jumps where a unit switches.
    model = policy("opt", activation_function="gelu").double()
    allow_second_order(model)
    term(model, target).backward()
    generator = torch.Generator().manual_seed(0)
    named = dict(model.named_parameters())
    names = [
        "model.decoder.embed_tokens.weight",
        "model.decoder.final_layer_norm.weight",
        "model.decoder.layers.1.fc1.weight",
    ]
    names += [
        f"model.decoder.layers.{n}.self_attn.{p}.weight" for n in (0, 1) for p in ("q_proj", "k_proj", "out_proj")
    ]
    names += ["model.decoder.layers.0.fc2.weight", "model.decoder.layers.1.self_attn.v_proj.bias"]
    for name in names:
        parameter = named[name]
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        along = (parameter.grad * direction).sum().item()
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
                # The strength is itself a gradient, so the graph is needed for the value as well.
                with torch.enable_grad():
                    values.append(term(model, target).item())
                parameter.sub_(direction, alpha=step)
        assert along == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-8), name
        assert abs(along) > 1e-6, name


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_gradient_does_not_depend_on_the_attention_kernel(family):
    gradients = []
    for attention in ("eager", "sdpa"):
        model = policy(family)
        model.set_attn_implementation(attention)
        allow_second_order(model)
        term(model, -0.5).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-4)


def test_undefined_responses_are_left_out_and_leave_no_nan():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
    strength = torch.tensor([1.0, 2, 4, 3, 1, 2, 3, 5, 5, 5, 5], requires_grad=True)
    bits = torch.tensor([0.5, 0.1, 0.3, 2.0, 1, 1, 2, 0.1, 0.2, 0.3, 0.4], requires_grad=True)
    rho = log_correlation(strength, bits, mask, 4)
    x, y = np.log(strength.detach()[:4]), np.log(bits.detach()[:4] + ENTROPY_FLOOR)
    assert rho[0].item() == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)
    assert rho.isnan().tolist() == [False, True, True]
    loss = inversion_loss(rho, 0.25)
    assert loss.item() == pytest.approx((rho[0].item() - 0.25) ** 2 / 3)
    loss.backward()
    assert strength.grad[:4].abs().min() > 0
    assert strength.grad[4:].count_nonzero() == 0
    assert bits.grad.isfinite().all()


class Gradients(TrainerCallback):
    def __init__(self):
        self.first = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if self.first is None:
            self.first = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def constant(completion_ids, **_):
    """No advantage, so that the differentiable term alone moves the policy."""
    return [0.0] * len(completion_ids)


DIRECT = {"reward": constant, "inversion_weight": 0.0, "inversion_loss_weight": 1.0, "max_grad_norm": 0.0}


def first_gradient(folder, **options):
    trainer = make(CorrPOTrainer, CorrPOConfig, folder, **{**DIRECT, "max_steps": 1, **options})
    seen = Gradients()
    trainer.add_callback(seen)
    trainer.train()
    return seen.first


@pytest.mark.parametrize(
    "options",
    [
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        {"gradient_checkpointing": True},
    ],
)
def test_the_gradient_is_the_same_in_micro_batches_and_with_checkpointing(tmp_path, options):
    whole = first_gradient(tmp_path, inversion_loss_target=-0.5)
    assert max(g.abs().max() for g in whole.values()) > 1e-3
    other = first_gradient(tmp_path, inversion_loss_target=-0.5, **options)
    for name, gradient in whole.items():
        torch.testing.assert_close(other[name], gradient, rtol=1e-3, atol=1e-6)


def test_no_weight_is_corrpo_bit_for_bit(tmp_path):
    plain = weights_after(make(CorrPOTrainer, CorrPOConfig, tmp_path))
    assert distance(plain, weights_after(make(CorrPOTrainer, CorrPOConfig, tmp_path, inversion_loss_weight=0.0))) == 0


@pytest.mark.parametrize(("target", "weight"), [(-0.8, 1.0), (0.8, 1.0), (None, 0.3), (None, -0.3)])
def test_rho_goes_where_it_is_sent(tmp_path, target, weight):
    options = {"inversion_loss_target": target, "inversion_loss_weight": weight, "max_steps": 25, "num_iterations": 2}
    options |= {"learning_rate": 3e-3, "temperature": 1.5 if target == -0.8 else 1.0, "max_completion_length": 24}
    trainer = make(CorrPOTrainer, CorrPOConfig, tmp_path, **{**DIRECT, **options})
    trainer.train()
    logged = column(trainer, "inversion_loss/rho")
    measured = column(trainer, "rho")
    sign = np.sign(target) if target is not None else -np.sign(weight)
    assert sign * (logged[-1] - logged[0]) > 0.4
    # Spearman's rho of the reward, which the term does not use, goes along.
    assert sign * (np.mean(measured[-3:]) - measured[0]) > 0.2


def test_the_control_moves_strength(tmp_path):
    options = {**DIRECT, "inversion_loss_term": "strength", "inversion_loss_weight": 0.3, "max_steps": 8}
    trainer = make(CorrPOTrainer, CorrPOConfig, tmp_path, **options)
    trainer.train()
    level = column(trainer, "inversion_loss/strength")
    assert level[-1] < level[0] - 0.1


def test_adapters_are_what_moves(tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    trainer = CorrPOTrainer(
        policy(),
        reward_funcs=[constant],
        args=CorrPOConfig(
            **settings(tmp_path, inversion_weight=0.0, inversion_loss_weight=1.0, max_steps=20, learning_rate=1e-2)
        ),
        train_dataset=data(),
        processing_class=TOKENIZER,
        peft_config=peft.LoraConfig(r=4, task_type="CAUSAL_LM", target_modules="all-linear"),
    )
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    after = weights_after(trainer)
    moved = {name for name in after if not torch.equal(start[name], after[name])}
    assert moved
    assert all("lora" in name for name in moved)
    rho = column(trainer, "inversion_loss/rho")
    assert rho[-1] < rho[0] - 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inversion_loss_target": 2.0}, "between -1 and 1"),
        ({"inversion_loss_target": 0.5, "inversion_loss_weight": -1.0}, "positive one"),
        ({"inversion_loss_term": "length"}, "choose among"),
    ],
)
def test_bad_settings_are_one_sentence(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        CorrPOConfig(**settings(tmp_path, **options))


def test_what_cannot_be_differentiated_twice_is_refused(tmp_path):
    model = policy()
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(InputError, match="sdpa or eager"):
        allow_second_order(model)
    with pytest.raises(InputError, match="SIREN"):
        make(SirenTrainer, CorrPOConfig, tmp_path, reward=even_tokens, inversion_loss_weight=1.0)
