"""Low-rank adapters: rho is that of the adapted policy, and they are saved, loaded and resumed."""

import pytest
import torch
from corrpo_samples import TOKENIZER, data, even_tokens, policy, settings
from test_corrpo_signals import PROMPTS, RESPONSES, same, state_of
from test_corrpo_trainer import KillAfter, Killed, distance, weights_after

import inversion
from inversion.corrpo import CorrPOConfig, CorrPOTrainer
from inversion.corrpo.signals import Exact, LastLayer
from inversion.errors import InputError

peft = pytest.importorskip("peft")


def adapters(**options):
    # Adapters that start at 0, peft's default, would leave the policy the base model.
    options = {"target_modules": ["q_proj", "o_proj", "up_proj"], "init_lora_weights": False, **options}
    return peft.LoraConfig(r=2, task_type="CAUSAL_LM", **options)


def adapted(**options):
    torch.manual_seed(1)
    return peft.get_peft_model(policy(), adapters(**options))


def make(folder, **options):
    torch.manual_seed(1)
    return CorrPOTrainer(
        policy(),
        reward_funcs=[even_tokens],
        args=CorrPOConfig(**settings(folder, inversion_form="additive", inversion_weight=0.3, **options)),
        train_dataset=data(),
        processing_class=TOKENIZER,
        peft_config=adapters(),
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_modules": "all-linear", "lora_dropout": 0.3},
        {"target_modules": ["up_proj"]},
        {"use_dora": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
)
@pytest.mark.parametrize("signal", [LastLayer(), Exact(layers=(-1,), projections=("q", "o"))], ids=["last", "exact"])
def test_strength_is_that_of_the_merged_weights(options, signal):
    model = adapted(**options).train()
    model.enable_input_require_grads()  # as TRL does where activations are checkpointed
    before = state_of(model)
    found = signal(model, PROMPTS, RESPONSES)
    for name, value in before.items():
        assert same(value, state_of(model)[name]), name
    merged = inversion.load_model(model.merge_and_unload())
    base = inversion.load_model(policy())
    for prompt, response, readings in zip(PROMPTS, RESPONSES, found, strict=True):
        runs = [inversion.probe(m, prompt, response, layers=(-1,), projections=("q", "o")) for m in (merged, base)]
        strength, other = (run.nuclear.mean(["layer", "projection"]).values for run in runs)
        assert readings.strength == pytest.approx(strength, rel=1e-3)
        assert readings.strength != pytest.approx(other, rel=1e-2)
        assert readings.entropy_bits == pytest.approx(runs[0].entropy_bits.values, rel=1e-3)


@pytest.mark.parametrize("signal", [LastLayer(), Exact()])
def test_learnt_prompts_are_refused_in_one_sentence(signal):
    model = peft.get_peft_model(policy(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(InputError, match="learnt prompts"):
        signal(model, PROMPTS, RESPONSES)


def test_only_adapters_move_and_they_are_saved_and_loaded(tmp_path):
    trainer = make(tmp_path)
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    after = weights_after(trainer)
    moved = {name for name in after if not torch.equal(start[name], after[name])}
    assert moved
    assert all("lora" in name for name in moved)
    trainer.save_model(str(tmp_path / "adapters"))
    assert not (tmp_path / "adapters" / "model.safetensors").exists()
    loaded = peft.PeftModel.from_pretrained(policy(), tmp_path / "adapters")
    a, b = (LastLayer()(model, PROMPTS, RESPONSES)[0] for model in (trainer.model, loaded))
    assert a.strength == pytest.approx(b.strength, rel=1e-5)


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "gradient_checkpointing": True}
    whole = weights_after(make(tmp_path / "whole", **options))
    trainer = make(tmp_path / "cut", **options)
    trainer.add_callback(KillAfter(2))
    with pytest.raises(Killed):
        trainer.train()
    assert distance(whole, weights_after(make(tmp_path / "cut", **options), resume_from_checkpoint=True)) == 0
