"""Run as a process of its own: ``inversion`` with the arguments after the first, which says where it is killed."""

import os
import signal
import sys

from transformers.trainer_callback import TrainerState

from inversion.cli import main
from inversion.corrpo.trainer import CorrPOTrainer
from inversion.runs import RunWriter


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_while_measuring(name):
    """Kill after the first shard of a run."""
    write = RunWriter.write_pieces

    def write_and_die(self, *args):
        write(self, *args)
        if self.folder.name == name:
            die()

    RunWriter.write_pieces = write_and_die


def kill_while_writing_the_last_state():
    """Kill in the middle of the file that ends a checkpoint."""
    save = TrainerState.save_to_json

    def save_half(self, path):
        save(self, path)
        if self.global_step == self.max_steps:
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    TrainerState.save_to_json = save_half


def kill_while_saving_the_model():
    save = CorrPOTrainer.save_model

    def save_half(self, folder=None, _internal_call=False):
        save(self, folder, _internal_call)
        if not _internal_call:
            os.truncate(os.path.join(folder, "model.safetensors"), 1000)
            die()

    CorrPOTrainer.save_model = save_half


if __name__ == "__main__":
    point, arguments = sys.argv[1], sys.argv[2:]
    if point in ("before", "after"):
        kill_while_measuring(point)
    elif point == "state":
        kill_while_writing_the_last_state()
    else:
        kill_while_saving_the_model()
    sys.exit(main(arguments))
