"""Training on two processes against training on one: copies of the model, and shards of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from corrpo_samples import LEARNING, SHARDS_ON_CPUS, make, policy, unequal, varied_by_prompt
from test_corrpo_trainer import fixed_batch
from transformers import AutoModelForCausalLM

from inversion.corrpo import CorrPOConfig, CorrPOTrainer
from inversion.corrpo.baselines.dynamic import DynamicSamplingTrainer
from inversion.errors import InputError

shards_on_cpus = pytest.mark.skipif(not SHARDS_ON_CPUS, reason="this release of torch shards on GPUs only")


def run(folder, *arguments):
    """What the two processes found."""
    here = Path(__file__).parent
    roots = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run(
        [*command, str(here / "corrpo_processes.py"), str(folder), *arguments],
        check=True,
        env={**os.environ, "PYTHONPATH": roots, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        timeout=240,
    )
    return [torch.load(folder / f"found-{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def found(folder):
    return run(folder)


def test_two_processes_get_the_rewards_of_one(found, tmp_path):
    trainer = make(CorrPOTrainer, CorrPOConfig, tmp_path, inversion_weight=0.5, inversion_control="shuffled")
    expected = trainer._calculate_rewards(*fixed_batch(trainer, 16))
    for process in found:
        torch.testing.assert_close(process["shuffled"], expected)


def test_dynamic_sampling_on_two_processes_draws_what_one_draws(found, tmp_path):
    trainer = make(DynamicSamplingTrainer, CorrPOConfig, tmp_path, reward=varied_by_prompt, max_steps=6)
    unequal(trainer).train()
    assert trainer.drawn > 8 * trainer.state.global_step  # some were drawn in place of others
    for process in found:
        assert process["dynamic"] == {"drawn": trainer.drawn, "steps": trainer.state.global_step}


class Replay(CorrPOTrainer):
    """Write what was written before, instead of sampling."""

    def write_turn(self, prompt_ids, *args, **options):
        prompts, responses = zip(*self.turns.pop(0), strict=True)
        assert list(prompts) == prompt_ids
        return list(responses), None

    def score(self, *args):
        self.rewards.append(super().score(*args))
        return self.rewards[-1]


def learns_the_same(found, folder, tmp_path):
    """Whether shards have learnt what one process learns from the same responses, and were saved."""
    sharded = found[0]["sharded"]
    trainer = make(Replay, CorrPOConfig, tmp_path, **LEARNING)
    trainer.turns, trainer.rewards = list(sharded["turns"]), []
    assert len({len(response) for turn in trainer.turns for _, response in turn}) > 1
    unequal(trainer).train()
    for process in found:
        for there, here in zip(process["sharded"]["rewards"], trainer.rewards, strict=True):
            torch.testing.assert_close(there, here, atol=1e-5, rtol=0)
    start, own = dict(policy().named_parameters()), dict(trainer.model.named_parameters())
    for name, parameter in sharded["parameters"].items():
        torch.testing.assert_close(parameter, own[name].detach(), atol=1e-5, rtol=0)
    moved = max((own[name] - start[name]).abs().max().item() for name in own)
    assert moved > 1e-4

    saved = AutoModelForCausalLM.from_pretrained(folder / "saved").state_dict()
    for name, parameter in sharded["parameters"].items():
        assert torch.equal(saved[name], parameter)


@shards_on_cpus
def test_shards_of_fsdp2_on_two_processes_learn_what_one_process_learns(found, folder, tmp_path):
    learns_the_same(found, folder, tmp_path)


def test_shards_of_zero3_on_two_processes_learn_what_one_process_learns(tmp_path):
    pytest.importorskip("deepspeed")
    learns_the_same(run(tmp_path, "zero3"), tmp_path, tmp_path / "one")


@shards_on_cpus
def test_the_exact_signal_reads_shards_as_it_reads_the_whole(found, tmp_path):
    trainer = make(CorrPOTrainer, CorrPOConfig, tmp_path, inversion_signal="exact")
    trainer.model.load_state_dict(found[0]["sharded"]["parameters"])
    expected = trainer.inversion_reward.read(*fixed_batch(trainer)[1::2])
    for there, here in zip(found[1]["exact"], expected, strict=True):
        torch.testing.assert_close(there, here.strength)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("fsdp on cpu", "on GPUs only"),
        ("loss", "without FSDP"),
        ("version 1", "set its version to 2"),
    ],
)
def test_what_shards_do_not_allow_is_refused(found, case, words):
    assert words in found[0][case]


def test_vllm_that_is_not_there_is_refused_in_words(tmp_path):
    with pytest.raises(InputError, match="install trl"):
        make(CorrPOTrainer, CorrPOConfig, tmp_path, use_vllm=True)


def test_deepspeed_that_is_not_there_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr("inversion.corrpo.config.is_deepspeed_available", lambda: False)
    with pytest.raises(InputError, match="deepspeed is not installed"):
        make(CorrPOTrainer, CorrPOConfig, tmp_path, deepspeed={"zero_optimization": {"stage": 3}})
