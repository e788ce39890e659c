"""Run by torchrun: each process scores its half of a fixed batch and writes the rewards it ends up with."""

import os
import sys
from pathlib import Path

import torch
from corrpo_samples import make
from test_corrpo_trainer import fixed_batch

from inversion.corrpo import CorrPOConfig, CorrPOTrainer

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    trainer = make(
        CorrPOTrainer,
        CorrPOConfig,
        folder,
        inversion_weight=0.5,
        inversion_control="shuffled",
        ddp_backend="gloo",
    )
    assert trainer.accelerator.num_processes == 2
    mine = [part[8 * rank : 8 * rank + 8] for part in fixed_batch(trainer, 16)]
    torch.save(trainer._calculate_rewards(*mine), folder / f"rewards-{rank}.pt")
    torch.distributed.destroy_process_group()
