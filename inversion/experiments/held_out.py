"""Accuracy and entropy on held-out problems along a training run, which goes on as if nobody had asked."""

from collections.abc import Sequence
from typing import Any

from transformers.trainer_callback import TrainerCallback

from inversion.corrpo.policy import new_bridge
from inversion.corrpo.sharding import loading_whole
from inversion.corrpo.trainer import CorrPOTrainer
from inversion.experiments.sampling import draw_samples, mean_entropy_bits
from inversion.responses import Generation, Problem
from inversion.scoring import accuracy


class HeldOut(TrainerCallback):
    """Let the policy answer held-out problems every so many steps, the start included.

    Logged are ``held_out_accuracy`` (share of right answers among the scored) and ``held_out_entropy_bits`` (mean over
    the tokens of the first answer to each problem, at temperature 1). Both are of the policy *before* the step in whose
    row they stand, which is the one that writes this step's responses.

    Answers draw from random numbers of their own, the same every time, so neither the training nor its global random
    state changes, and two steps differ by their policies alone. With several processes the main one answers.

    Args:
        trainer: Whose policy it is, and where the numbers are logged.
        problems: Each with a scorer.
        every: Steps.
        samples: Answers to each problem.
        generation: How to sample.
        seed: Of sampling.
    """

    def __init__(
        self,
        trainer: CorrPOTrainer,
        problems: Sequence[Problem],
        every: int,
        samples: int,
        generation: Generation,
        seed: int,
    ) -> None:
        self.trainer, self.problems = trainer, problems
        self.every, self.samples, self.generation, self.seed = every, samples, generation, seed

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Answer and log, where the time has come."""
        if state.global_step % self.every:
            return
        with self.trainer.whole(), loading_whole(args):
            if state.is_world_process_zero:
                self._answer()

    def _answer(self) -> None:
        bridge = new_bridge(self.trainer.policy, self.trainer.processing_class)
        found = draw_samples(bridge, self.problems, self.samples, self.generation, self.seed)
        # Before its first step the policy is not in training mode yet.
        self.trainer.note("held_out_accuracy", accuracy(found.right.ravel()).share, "train")
        self.trainer.note("held_out_entropy_bits", mean_entropy_bits(bridge, found.kept), "train")
