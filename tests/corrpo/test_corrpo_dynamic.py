"""Dynamic sampling: what is dropped, what fills its place, where it stops, and that it can be resumed."""

import numpy as np
import pytest
import torch
from corrpo_samples import data, make, varied_by_prompt

from inversion.corrpo import CorrPOConfig
from inversion.corrpo.baselines.dynamic import DynamicSamplingTrainer


def never_varied(prompts, **_):
    return [1.0] * len(prompts)


def rollout(folder, reward, tries, prompts=(7, 6)):
    trainer = make(DynamicSamplingTrainer, CorrPOConfig, folder, reward=reward, max_steps=50, inversion_weight=0.0)
    trainer.tries = tries
    trainer.model.train()
    return trainer, trainer._generate_and_score_completions([data()[p] for p in prompts for _ in range(4)])


def test_groups_without_variance_make_room(tmp_path):
    trainer, batch = rollout(tmp_path, varied_by_prompt, tries=20)
    # Rewards 0 1 0 1 in both groups: mean 1/2, standard deviation 1/sqrt 3.
    expected = torch.tensor([-1.0, 1.0] * 4) * 0.5 / (3**-0.5 + 1e-4)
    torch.testing.assert_close(batch["advantages"], expected)
    assert trainer.drawn > 8
    assert trainer.drawn % 8 == 0
    # Prompts and responses were kept together: the kept prompts are among the three that vary.
    texts = trainer.processing_class.batch_decode(batch["prompt_ids"], skip_special_tokens=True)
    assert {text[0] for text in texts} <= set("012")


def test_what_is_logged_as_right_is_that_of_everything_drawn(tmp_path):
    """That of the groups which are kept is half by what they are kept for, however good the policy is."""
    drawn = []

    def reward(prompts, **context):
        drawn.extend(varied_by_prompt(prompts, **context))
        return drawn[-len(prompts) :]

    trainer, _ = rollout(tmp_path, reward, tries=20)
    metrics = trainer._metrics["train"]
    assert np.mean(metrics["first_reward"]) == pytest.approx(np.mean(drawn))
    assert np.mean(metrics["rewards/reward/mean"]) == pytest.approx(0.5)
    assert np.mean(drawn) != pytest.approx(0.5)


def test_tries_are_bounded(tmp_path):
    trainer, batch = rollout(tmp_path, never_varied, tries=3)
    assert trainer.drawn == 3 * 8
    assert batch["advantages"].count_nonzero() == 0
    assert len(batch["completion_ids"]) == 8


def test_a_batch_that_varies_is_kept_as_it_is(tmp_path):
    trainer, batch = rollout(tmp_path, varied_by_prompt, tries=3, prompts=(1, 2))
    assert trainer.drawn == 8
    texts = trainer.processing_class.batch_decode(batch["prompt_ids"], skip_special_tokens=True)
    assert [text[0] for text in texts] == list("11112222")


@pytest.mark.parametrize("iterations", [1, 2])
def test_training_stops_when_the_samples_are_used_up(tmp_path, iterations):
    trainer = make(
        DynamicSamplingTrainer, CorrPOConfig, tmp_path, reward=never_varied, max_steps=12, num_iterations=iterations
    )
    trainer.train()
    # Every rollout draws three batches, so a third of the steps uses up what all of them would have.
    assert trainer.budget == 12 // iterations * 8
    assert trainer.drawn == trainer.budget
    assert trainer.state.global_step == 4


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    options = {"reward": varied_by_prompt, "max_steps": 12, "save_strategy": "steps", "save_steps": 2}
    whole = make(DynamicSamplingTrainer, CorrPOConfig, tmp_path, **options)
    whole.train()
    again = make(DynamicSamplingTrainer, CorrPOConfig, tmp_path, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert (again.drawn, again.state.global_step) == (whole.drawn, whole.state.global_step)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))
