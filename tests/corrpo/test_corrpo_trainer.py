"""CorR-PO's trainer against four oracles: GRPO, itself, a task to learn, and what must not change."""

import numpy as np
import pytest
import torch
from corrpo_samples import LEARNING, TOKENIZER, data, even_tokens, make, policy, settings
from datasets import Dataset
from transformers import TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

import inversion
from inversion.corrpo import CorrPOConfig, CorrPOTrainer, InversionReward
from inversion.corrpo.baselines.dynamic import DynamicSamplingTrainer
from inversion.corrpo.seams import tokenized
from inversion.errors import InputError


def weights_after(trainer, **options):
    trainer.train(**options)
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def distance(a, b):
    return max((a[name] - b[name]).abs().max().item() for name in a)


def column(trainer, name):
    return [row[name] for row in trainer.state.log_history if name in row]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return weights_after(make(CorrPOTrainer, CorrPOConfig, tmp_path_factory.mktemp("run"), inversion_form="additive"))


def test_weight_zero_is_grpo(tmp_path, trained):
    plain = weights_after(make(GRPOTrainer, GRPOConfig, tmp_path))
    without = weights_after(make(CorrPOTrainer, CorrPOConfig, tmp_path, inversion_weight=0.0))
    assert distance(plain, without) == 0
    assert distance(plain, trained) > 0
    assert distance(plain, {name: p.detach() for name, p in policy().named_parameters()}) > 0


def test_a_seed_gives_the_same_parameters(tmp_path, trained):
    assert distance(trained, weights_after(make(CorrPOTrainer, CorrPOConfig, tmp_path, inversion_form="additive"))) == 0


class Killed(Exception):
    pass


class KillAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise Killed


def test_killed_and_resumed_equals_uninterrupted(tmp_path, trained):
    options = {"inversion_form": "additive", "save_strategy": "steps", "save_steps": 1}
    trainer = make(CorrPOTrainer, CorrPOConfig, tmp_path, **options)
    trainer.add_callback(KillAfter(2))
    with pytest.raises(Killed):
        trainer.train()
    assert (tmp_path / "checkpoint-1").is_dir()
    assert not (tmp_path / "checkpoint-2").is_dir()
    again = make(CorrPOTrainer, CorrPOConfig, tmp_path, **options)
    assert distance(trained, weights_after(again, resume_from_checkpoint=True)) == 0


def test_resumed_in_a_later_epoch_equals_uninterrupted(tmp_path):
    # Eight prompts, two a step: the second epoch begins after step 4.
    options = {"max_steps": 7, "save_strategy": "steps", "save_steps": 1}
    whole = weights_after(make(CorrPOTrainer, CorrPOConfig, tmp_path, **options))
    for step in (4, 5):
        again = make(CorrPOTrainer, CorrPOConfig, tmp_path, **options)
        assert distance(whole, weights_after(again, resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))) == 0


def share_even(completion_ids, **_):
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def test_a_tiny_task_is_learnt(tmp_path):
    options = {"max_steps": 40, "learning_rate": 1e-2, "per_device_train_batch_size": 32, "num_generations": 8}
    trainer = make(CorrPOTrainer, CorrPOConfig, tmp_path, reward=share_even, inversion_right_at=0.6, **options)
    trainer.train()
    reward = column(trainer, "rewards/share_even/mean")
    assert np.mean(reward[:3]) < 0.65
    assert np.mean(reward[-3:]) > 0.9


def test_all_wrong_groups_move_nothing_by_default_but_everything_when_additive(tmp_path):
    def wrong(completion_ids, **_):
        return [0.0] * len(completion_ids)

    start = {name: p.detach().clone() for name, p in policy().named_parameters()}
    options = {"reward": wrong, "inversion_weight": 0.001, "optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.1}
    safe = weights_after(make(CorrPOTrainer, CorrPOConfig, tmp_path, **options))
    assert distance(start, safe) == 0
    trap = make(CorrPOTrainer, CorrPOConfig, tmp_path, inversion_form="additive", **options)
    moved = distance(start, weights_after(trap))
    ordinary = distance(
        start,
        weights_after(
            make(
                GRPOTrainer,
                GRPOConfig,
                tmp_path,
                **{k: v for k, v in options.items() if k not in ("reward", "inversion_weight")},
            )
        ),
    )
    # Nothing was right, rho weighs a thousandth, and yet the step is of the size of an ordinary one.
    assert moved > 0.3 * ordinary


def fixed_batch(trainer, count=8):
    prompts = [data()[i // 4]["prompt"] for i in range(count)]
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(2, len(TOKENIZER), (10 + i,), generator=generator).tolist() for i in range(count)]
    return [{"prompt": p} for p in prompts], prompts, [TOKENIZER.decode(x) for x in ids], ids


def test_the_bonus_is_the_statistics_rho(tmp_path):
    trainer = make(CorrPOTrainer, CorrPOConfig, tmp_path, inversion_form="additive", inversion_weight=0.3)
    inputs, prompts, texts, ids = fixed_batch(trainer)
    rewards = trainer._calculate_rewards(inputs, prompts, texts, ids)
    bridge = inversion.load_model(policy(), tokenizer=TOKENIZER)
    for prompt, response, row in zip(prompts, ids, rewards.tolist(), strict=True):
        run = inversion.probe(bridge, prompt, response, layers=(-1,), projections=("q", "o"))
        expected = inversion.correlate(run, resamples=10).estimate
        assert row == pytest.approx([even_tokens([response])[0], -0.3 * expected], abs=1e-6)


def test_exact_signal_in_the_trainer_sees_the_policy_being_trained(tmp_path):
    options = {"inversion_signal": "exact", "inversion_layers": [0, 1], "inversion_form": "additive"}
    trainer = make(CorrPOTrainer, CorrPOConfig, tmp_path, max_steps=2, **options)
    trainer.train()
    inputs, prompts, texts, ids = fixed_batch(trainer)
    rewards = trainer._calculate_rewards(inputs, prompts, texts, ids)
    trainer.save_model(str(tmp_path / "saved"))
    bridge = inversion.load_model(str(tmp_path / "saved"))
    run = inversion.probe(bridge, prompts[0], ids[0], layers=(0, 1))
    assert rewards[0, 1].item() == pytest.approx(-0.1 * inversion.correlate(run, resamples=10).estimate, abs=1e-6)


def test_reward_alone_in_plain_grpo_is_the_additive_form(tmp_path, trained):
    reward = InversionReward()
    trainer = GRPOTrainer(
        policy(),
        reward_funcs=[even_tokens, reward],
        args=GRPOConfig(**settings(tmp_path, reward_weights=[1.0, -0.1])),
        train_dataset=data(),
        processing_class=TOKENIZER,
    )
    reward.attach(trainer)
    assert distance(trained, weights_after(trainer)) < 1e-5


@pytest.mark.parametrize("form", ["additive", "right_only", "shrunk", "target", "mixed_groups"])
def test_writing_short_responses_changes_nothing_that_rho_pays(tmp_path, form):
    """A policy whose every response is too short for rho is trained as by GRPO, however much rho weighs."""
    options = {"max_completion_length": 3}
    plain = weights_after(make(GRPOTrainer, GRPOConfig, tmp_path, **options))
    found = weights_after(
        make(CorrPOTrainer, CorrPOConfig, tmp_path, inversion_weight=10.0, inversion_form=form, **options)
    )
    assert distance(plain, found) == 0


def test_an_undefined_rho_is_the_mean_of_its_group_in_plain_grpo():
    reward = InversionReward()
    known = iter([0.5, None, 0.1, None, None, None, 0.4])
    reward.read = lambda prompts, ids: prompts
    reward.rho = lambda readings: next(known)
    logged = {}
    prompts = ["a", "a", "a", "b", "b", "c", "c"]
    found = reward(prompts, [[1]] * 7, log_metric=logged.__setitem__)
    assert found == pytest.approx([0.5, 0.3, 0.1, 0, 0, 0.4, 0.4])
    assert logged == {"rho_undefined": pytest.approx(4 / 7)}


def test_unscored_responses_are_no_wrong_ones(tmp_path):
    def some(completion_ids, **_):
        return [None if i % 4 == 0 else float(i % 2) for i, _ in enumerate(completion_ids)]

    trainer = make(CorrPOTrainer, CorrPOConfig, tmp_path, reward=some, max_steps=1)
    trainer.train()
    # Of 0 1 2 3 the first is dropped and two of three are right.
    assert column(trainer, "accuracy") == pytest.approx([2 / 3])
    assert column(trainer, "unscored") == pytest.approx([1 / 4])


def test_entropy_is_logged_at_temperature_1_beside_the_sampled_one(tmp_path):
    for temperature in (1.0, 2.0):
        trainer = make(CorrPOTrainer, CorrPOConfig, tmp_path, max_steps=1, temperature=temperature)
        trainer.train()
        (bits,), (nats,) = column(trainer, "entropy_bits"), column(trainer, "entropy")
        ratio = bits * np.log(2) / nats
        assert ratio == pytest.approx(1, rel=1e-3) if temperature == 1 else ratio < 0.97


def test_task_weights_and_logged_metrics(tmp_path):
    def length(completion_ids, **_):
        return [float(len(ids)) for ids in completion_ids]

    trainer = CorrPOTrainer(
        policy(),
        reward_funcs=[even_tokens, length],
        args=corrpo_args(tmp_path, reward_weights=[1.0, 0.0]),
        train_dataset=data(),
        processing_class=TOKENIZER,
    )
    trainer.train()
    assert trainer.reward_weights.tolist() == [1, 0, 1]
    row = next(row for row in trainer.state.log_history if "rho" in row)
    assert {"accuracy", "rho_undefined", "rewards/inversion/mean", "frac_reward_zero_std", "entropy"} <= set(row)
    assert {f"prize/{name}" for name in ("length", "repetition")} <= set(row)
    assert row["predicted_entropy_change"] == pytest.approx(-1e-3 * row["covariance"], rel=1e-6)
    assert {"time/generate", "time/reward", "completions/mean_length", "reward"} <= set(row)
    assert row["accuracy"] == pytest.approx(row["rewards/even_tokens/mean"])
    assert -1 <= row["rho"] <= 1


def corrpo_args(folder, **options):
    return CorrPOConfig(**settings(folder, **options))


def test_shuffled_control_keeps_the_values_of_each_group(tmp_path):
    options = {"inversion_form": "additive", "inversion_weight": 1.0}
    batches = []
    for control in ("none", "shuffled"):
        trainer = make(CorrPOTrainer, CorrPOConfig, tmp_path, inversion_control=control, **options)
        batches.append(trainer._calculate_rewards(*fixed_batch(trainer))[:, 1].view(2, 4))
    assert not torch.equal(*batches)
    assert torch.equal(batches[0].sort(1).values, batches[1].sort(1).values)


def test_the_filler_control_takes_the_place_of_rho(tmp_path):
    options = {"inversion_form": "additive", "inversion_weight": 2.0, "inversion_control": "filler"}
    trainer = make(CorrPOTrainer, CorrPOConfig, tmp_path, **options)
    inputs, prompts, _, ids = fixed_batch(trainer, 4)
    texts = ["So 3\nThen 4\nSo 5\nNext 6", "Then 1", "1 + 2", "so so"]
    assert trainer._calculate_rewards(inputs, prompts, texts, ids)[:, 1].tolist() == [1, 0, 0, 2]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("inversion_form", "best"),
        ("inversion_signal", "all"),
        ("inversion_layers", [0]),
        ("inversion_projections", ["v"]),
        ("inversion_method", "kendall"),
        ("inversion_unit", "word"),
        ("inversion_min_tokens", 0),
        ("inversion_control", "reversed"),
        ("inversion_shrink_tokens", -1.0),
        ("multi_objective_aggregation", "normalize_then_sum"),
    ],
)
def test_bad_settings_are_one_sentence(tmp_path, field, value):
    with pytest.raises(InputError) as caught:
        corrpo_args(tmp_path, **{field: value})
    assert str(caught.value).endswith(".")


def test_a_task_reward_is_needed(tmp_path):
    with pytest.raises(InputError, match="task reward"):
        CorrPOTrainer(policy(), args=corrpo_args(tmp_path), train_dataset=data(), processing_class=TOKENIZER)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_iterations": 2, "max_steps": 2},
        {"gradient_checkpointing": True},
        {"steps_per_generation": 2, "per_device_train_batch_size": 4, "max_steps": 2},
    ],
)
def test_rho_in_training_skips_the_lower_layers_and_is_the_same(tmp_path, monkeypatch, options):
    # Prompts of different lengths, hence padding on the left, and responses that end early: four tokens end one.
    rows = Dataset.from_list([{"prompt": f"{10**i} + {i} ="} for i in range(8)])
    options = {"max_steps": 1, "inversion_form": "additive", "max_completion_length": 40, **options}
    trainer = make(CorrPOTrainer, CorrPOConfig, tmp_path, rows=rows, **options)
    trainer.eos_token_ids = trainer.generation_config.eos_token_id = [1, 5, 9, 13]
    lengths = []
    reward, layer, ran, rhos = trainer.inversion_reward, trainer.model.model.layers[0], [], []
    read = reward.read

    def watched(prompts, completion_ids):
        hook = layer.self_attn.register_forward_hook(lambda *_: ran.append(True))
        found = read(prompts, completion_ids)
        assert not ran
        lengths.append([set(map(len, texts)) for texts in (tokenized(trainer, prompts), completion_ids)])
        # What was kept is used once, so that the second reading goes the whole way.
        rhos.append([[reward.rho(readings) for readings in part] for part in (found, read(prompts, completion_ids))])
        assert ran
        hook.remove()
        return found

    monkeypatch.setattr(reward, "read", watched)
    trainer.train()
    ((recorded, plain),), ((prompts, responses),) = rhos, lengths
    assert len(prompts) > 1
    assert min(responses) < max(responses)
    assert sum(value is not None for value in plain) > 3
    for a, b in zip(recorded, plain, strict=True):
        assert a == (None if b is None else pytest.approx(b, abs=0.01))
    assert not layer._forward_pre_hooks
    assert "forward" not in layer.__dict__


class StandIn:
    """Writes fixed responses where vLLM would sample them, and says how probable they are to the policy."""

    def __init__(self, trainer):
        self.model, self.calls, self.synced = trainer.model, 0, 0

    def sync_weights(self):
        self.synced += 1

    def generate(self, prompts, **_):
        responses, log_probs = fixed_responses(self.calls, len(prompts)), []
        self.calls += 1
        for prompt, response in zip(prompts, responses, strict=True):
            with torch.no_grad():
                logits = self.model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
            own = logits.log_softmax(-1)[range(len(response)), response]
            log_probs.append([[value] for value in own.tolist()])
        return prompts, responses, log_probs, None


def fixed_responses(call, count):
    generator = torch.Generator().manual_seed(call)
    return [torch.randint(2, len(TOKENIZER), (12 - i % 4,), generator=generator).tolist() for i in range(count)]


@pytest.mark.parametrize("trainer_class", [CorrPOTrainer, DynamicSamplingTrainer])
def test_what_vllm_writes_teaches_what_it_would_teach_if_the_policy_wrote_it(tmp_path, trainer_class, monkeypatch):
    served = make(trainer_class, CorrPOConfig, tmp_path, **LEARNING)
    # As GRPOTrainer sets itself up where vLLM is installed.
    served.use_vllm, served.vllm_generation, served._last_loaded_step = True, StandIn(served), -1
    found = weights_after(served)
    assert served.vllm_generation.synced == served.state.global_step
    plain = make(trainer_class, CorrPOConfig, tmp_path, **LEARNING)
    calls = iter(range(served.vllm_generation.calls))
    monkeypatch.setattr(plain, "write_turn", lambda ids, *_, **__: (fixed_responses(next(calls), len(ids)), None))
    assert distance(found, weights_after(plain)) < 1e-6
    assert [float(row) for row in column(served, "rho")] == pytest.approx([float(row) for row in column(plain, "rho")])
    assert next(calls, None) is None
