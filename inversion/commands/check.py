"""``inversion check``."""

from dataclasses import dataclass
from functools import partial

from inversion.commands.options import option
from inversion.errors import InputError


@dataclass(frozen=True)
class Check:
    """Say what of a run is whole, byte for byte; with --repair, measure the rest again."""

    run: str = option("folder of the run")
    repair: bool = option("put run.json right, remove damaged shards and measure what is missing", False)

    def __call__(self) -> None:
        """Run the command."""
        from inversion.checking import inspect_run, make_room, read_command

        found = inspect_run(self.run)
        print(found, flush=True)
        if found.is_whole:
            return
        if not self.repair:
            shards = f"{len(found.damaged)} shards are damaged and {len(found.missing)} are missing"
            changed = "run.json was changed" + (f", {shards}" if found.damaged or found.missing else "")
            raise InputError(
                f"{shards if found.manifest is None else changed}; mend it with: inversion check {self.run} --repair"
            )
        from inversion.commands.probe import Probe

        options = read_command(found.folder)
        try:
            command = Probe(**options)
        except TypeError as error:
            raise InputError(f"{self.run} was measured by a command with other options; give it once more.") from error
        command.measure(partial(make_room, found))
