"""Run by torchrun, on two CPU processes over gloo: train in several ways, and write down what came of it.

Copies of the model with dynamic sampling first, then shards of it under FSDP2.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, gather_object
from corrpo_samples import (
    LEARNING,
    SHARDS_ON_CPUS,
    TOKENIZER,
    data,
    even_tokens,
    policy,
    settings,
    unequal,
    varied_by_prompt,
)
from test_corrpo_trainer import fixed_batch
from torch.distributed.fsdp import FSDPModule

from inversion.corrpo import CorrPOConfig, CorrPOTrainer, Exact
from inversion.corrpo.baselines.dynamic import DynamicSamplingTrainer
from inversion.corrpo.sharding import save_in_one_piece
from inversion.errors import InputError

FSDP = {"fsdp": "full_shard"}


def build(trainer_class: Any, folder: Path, reward=even_tokens, sharded: bool = False, **options: Any) -> Any:
    """A trainer, with half of the responses of a batch on this process."""
    options = {"per_device_train_batch_size": 4, "ddp_backend": "gloo", **(FSDP if sharded else {}), **options}
    args = CorrPOConfig(**settings(folder, **options))
    assert args.device.type == "cpu"
    if sharded:
        # accelerate shards on accelerators only; torch does on CPUs as well, so this is passed off as one.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
    AcceleratorState._reset_state()
    found = trainer_class(policy(), reward_funcs=[reward], args=args, train_dataset=data(), processing_class=TOKENIZER)
    assert found.accelerator.num_processes == 2
    return unequal(found)


class Recorded(CorrPOTrainer):
    """Keep what was written, and the rewards."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.turns, self.rewards = [], []
        super().__init__(*args, **options)

    def write_turn(self, prompt_ids: Any, *args: Any, **options: Any) -> Any:
        response_ids, log_probs = super().write_turn(prompt_ids, *args, **options)
        self.turns.append(gather_object([*zip(prompt_ids, response_ids, strict=True)]))
        return response_ids, log_probs

    def score(self, *args: Any) -> torch.Tensor:
        self.rewards.append(super().score(*args))
        return self.rewards[-1]


def refusal(folder: Path, **options: Any) -> str:
    try:
        build(CorrPOTrainer, folder, **options)
    except InputError as error:
        os.environ.pop("ACCELERATE_USE_FSDP", None)  # the settings leave it there, for trainers that are made later
        return str(error)
    return ""


def learn(trainer: Any, folder: Path) -> dict[str, Any]:
    """Train a sharded policy, and save it; what was written, the rewards, and the parameters afterwards."""
    save_in_one_piece(trainer.accelerator)
    trainer.train()
    trainer.save_model(str(folder / "saved"))
    with trainer.whole():
        parameters = {name: whole.detach().clone() for name, whole in trainer.policy.named_parameters()}
    return {"turns": trainer.turns, "rewards": trainer.rewards, "parameters": parameters}


def zero3(folder: Path) -> None:
    model = policy()  # before the settings, which would split it up as it is made
    automatic = dict.fromkeys(
        ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"), "auto"
    )
    untested = {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    deepspeed = {"zero_optimization": {"stage": 3}, **untested, **automatic}
    args = CorrPOConfig(**settings(folder, per_device_train_batch_size=4, deepspeed=deepspeed, **LEARNING))
    trainer = Recorded(model, reward_funcs=[even_tokens], args=args, train_dataset=data(), processing_class=TOKENIZER)
    found = {"sharded": learn(unequal(trainer), folder)}
    assert all(hasattr(parameter, "ds_id") for parameter in trainer.model.parameters())
    torch.save(found, folder / f"found-{os.environ['RANK']}.pt")


def main(folder: Path) -> None:
    rank, found = int(os.environ["RANK"]), {}
    found["fsdp on cpu"] = refusal(folder, **FSDP)

    trainer = build(CorrPOTrainer, folder, inversion_weight=0.5, inversion_control="shuffled")
    mine = [part[8 * rank : 8 * rank + 8] for part in fixed_batch(trainer, 16)]
    found["shuffled"] = trainer._calculate_rewards(*mine)

    trainer = build(DynamicSamplingTrainer, folder, varied_by_prompt, max_steps=6)
    trainer.train()
    found["dynamic"] = {"drawn": trainer.drawn, "steps": trainer.state.global_step}

    if SHARDS_ON_CPUS:
        trainer = build(Recorded, folder, sharded=True, **LEARNING)
        found["sharded"] = learn(trainer, folder)
        assert isinstance(trainer.model.model.layers[0], FSDPModule)
        trainer.inversion_reward.signal = Exact()
        with trainer.whole():
            readings = trainer.inversion_reward.read(*fixed_batch(trainer)[1::2])
        found["exact"] = [each.strength for each in readings]

    found["loss"] = refusal(folder, sharded=True, inversion_loss_weight=1.0)
    found["version 1"] = refusal(folder, sharded=True, fsdp_config={"version": 1})
    torch.save(found, folder / f"found-{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    (zero3 if sys.argv[2:] else main)(Path(sys.argv[1]))
