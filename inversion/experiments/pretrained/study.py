"""A study of one pretrained model, piece by piece: what there is to do, how long it takes, what it found."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from inversion.errors import InputError
from inversion.experiments.lineage.spec import step_folder
from inversion.experiments.pretrained import reinforcement
from inversion.experiments.pretrained.baseline import labels_of, parts_of, run_baseline
from inversion.experiments.pretrained.changes import Runs, changes_of
from inversion.experiments.pretrained.costs import Costs, costs_of
from inversion.experiments.pretrained.finetuning import train_arm
from inversion.experiments.pretrained.measuring import LAYERS, ROWS, TEXTS, is_measured, measure_checkpoint
from inversion.experiments.pretrained.spec import PARTS, StudySpec
from inversion.experiments.pretrained.texts import tokenizer_of, training_examples, write_texts
from inversion.experiments.rows import labelled
from inversion.experiments.survey import is_done
from inversion.files import check_part, claim, holds, owned, put_table, share_of
from inversion.models import load_checkpoint
from inversion.runs import is_complete
from inversion.tables import text_table

RECORD, FINETUNING = "study.json", "finetuning.json"
TABLES = "tables"
START = "start"
"""Folder of the model before fine-tuning, measured once for all arms, by the problems that it answers."""
FORMAT = "%.5g"
CHANGES = "changes.csv"
"""What a run was compared with, beside its rows."""


@dataclass(frozen=True)
class Unit:
    """A piece of a study that can be done by itself.

    part: One of ``PARTS``.
    name: Name for people.
    seconds: What is expected to be left of it.
    run: Does it, or what is left of it; is given a function that takes the seconds that went by as expected.
    """

    part: str
    name: str
    seconds: float
    run: Callable[[Callable[[float], None]], None]


class Study:
    """A study in a folder.

    The folder holds ``study.json``, ``texts``, ``costs.json``, a folder for each part with its runs, and ``tables``.
    No weights are kept: a training's checkpoints go when it is over.
    """

    def __init__(self, spec: StudySpec, out: Path) -> None:
        self.spec, self.out = spec, out.expanduser().resolve()
        self.tokenizer = tokenizer_of(spec)
        self.texts = self.out / "texts"
        self.failures: list[str] = []

    def begin(self) -> None:
        """Claim the folder and write the texts.

        Raises:
            InputError: It holds something else, or the texts cannot be had.
        """
        spec = self.spec
        claim(self.out, RECORD, {"model": spec.model, "seed": spec.seed, "data": spec.data}, what="study")
        write_texts(spec, self.tokenizer, self.texts)

    def settle(self, dry_run: bool) -> None:
        """Claim the fine-tuning for the settings that all its numbers share; a dry run only looks.

        Raises:
            InputError: It was begun with others.
        """
        how = self.spec.finetuning
        record = {name: list(v) if isinstance(v := getattr(how, name), tuple) else v for name in _DECIDING}
        (holds if dry_run else claim)(self.out / "finetuning", FINETUNING, record, what="fine-tuning")

    def units(self, only: Sequence[str], costs: Costs, share: tuple[int, int] | None = None) -> list[Unit]:
        """Return what is left to do of some parts, in order; of n shares the i-th, always with the same pieces."""
        found: list[Unit] = []
        for part in only:
            pieces: list[Unit | None] = getattr(self, f"_{part}")(costs)
            mine = share_of(pieces, share)
            if part == "reinforcement":
                # What it trains on comes from its own scan, so one process, that of the last share, does all of it.
                mine = pieces if share is None or share[0] == share[1] else []
            found += [unit for unit in mine if unit is not None]
        return found

    # Parts: all their pieces, None in the place of one that is finished or cannot be done.

    def _baseline(self, costs: Costs) -> list[Unit | None]:
        units: list[Unit | None] = []
        for name, survey in self.spec.surveys(self.texts).items():
            folder = self.out / "baseline" / name
            left = [
                cell for cell in survey.cells() if not is_done(cell, folder) or not parts_of(cell, folder)[1].is_file()
            ]
            if not left:
                units.append(None)
                continue
            seconds = [costs.cell(cell, self.texts) for cell in left]

            def run(advance: Any, name: str = name, survey: Any = survey, folder: Path = folder) -> None:
                failed = run_baseline(name, survey, folder, tqdm.write)
                self.failures += [f"baseline {name}, {line}" for line in failed]

            units.append(Unit("baseline", f"{name} ({len(left)} runs)", sum(seconds), run))
        return units

    def _finetuning(self, costs: Costs) -> list[Unit | None]:
        how = self.spec.finetuning
        runs = how.runs()
        starts = dict.fromkeys(how.arms[name].measured_on for name, _ in runs)
        return [
            *(self._starting(problems, costs) for problems in starts),
            *(self._training(*run, costs) for run in runs),
        ]

    def _starting(self, problems: str, costs: Costs) -> Unit | None:
        if is_measured(self._start(problems)):
            return None
        seconds = costs.checkpoint(self.spec.finetuning)
        return Unit("finetuning", f"start, {problems}", seconds, lambda advance: self._measure_start(problems))

    def _training(self, name: str, seed: int, costs: Costs) -> Unit | None:
        how, folder = self.spec.finetuning, self._arm(name, seed)
        if not (self.texts / f"train-{how.arms[name].texts}.jsonl").is_file():
            print(f"{name} is left out: there are no {how.arms[name].texts}; name their folder with --data.")
            return None
        marks = [mark for mark in how.marks[1:] if not is_measured(step_folder(folder, mark))]
        if not marks:
            return None
        done = how.marks[how.marks.index(marks[0]) - 1]
        seconds = (how.marks[-1] - done) * costs.step(how.arms[name]) + len(marks) * costs.checkpoint(how)
        run = lambda advance: self._train(name, seed, costs, advance)  # noqa: E731
        return Unit("finetuning", f"{name}, seed {seed}", seconds, run)

    def _reinforcement(self, costs: Costs) -> list[Unit | None]:
        folder, how = self.out / "reinforcement", self.spec.reinforcement
        units: list[Unit | None] = []
        if untried := reinforcement.untried(self.spec, folder):
            seconds = costs.scan(self.spec) * len(untried) / len(how.scan.tasks)
            scan = lambda advance: self._scan(costs, advance)  # noqa: E731
            units.append(Unit("reinforcement", f"scan of {len(untried)} tasks", seconds, scan))
        comparison = reinforcement.comparison_of(self.spec, folder)
        left = [arm for arm in comparison.arms() if not arm.samples.is_file()]
        if left:
            seconds = len(left) * costs.reinforcement(comparison)
            names = ", ".join(f"{arm.name} {arm.spec.seed}" for arm in left)
            run = lambda advance: reinforcement.reinforce(self.spec, self.tokenizer, folder)  # noqa: E731
            units.append(Unit("reinforcement", names, seconds, run))
        return units

    # Pieces.

    def _start(self, problems: str) -> Path:
        return self.out / "finetuning" / START / problems

    def _arm(self, name: str, seed: int) -> Path:
        return self.out / "finetuning" / name / f"seed-{seed}"

    def _measure_start(self, problems: str) -> None:
        model, _ = load_checkpoint(self.spec.model, self.spec.device)
        measure_checkpoint(
            model, self.tokenizer, self.spec, self.texts, problems, self._start(problems), f"{START}/{problems}"
        )

    def _train(self, name: str, seed: int, costs: Costs, advance: Callable[[float], None]) -> None:
        how, arm, folder = self.spec.finetuning, self.spec.finetuning.arms[name], self._arm(name, seed)
        record = {key: value for key, value in vars(arm).items() if key != "seeds"}
        claim(folder.parent, "arm.json", record, what="arm", remedy="choose a new folder or another name for the arm")

        def measure(model: Any, step: int) -> None:
            place = step_folder(folder, step)
            if not is_measured(place):
                named = f"{name}/seed-{seed}/step-{step}"
                measure_checkpoint(model, self.tokenizer, self.spec, self.texts, arm.measured_on, place, named)
                advance(costs.checkpoint(how))
                tqdm.write(f"{named} is measured")

        examples = training_examples(self.texts, arm.texts, self.tokenizer, self.spec.texts)
        train_arm(self.spec, arm, seed, examples, self.tokenizer, folder, measure, lambda: advance(costs.step(arm)))

    def _scan(self, costs: Costs, advance: Callable[[float], None]) -> None:
        each = costs.scan(self.spec) / len(self.spec.reinforcement.scan.tasks)
        reinforcement.scan(self.spec, self.tokenizer, self.out / "reinforcement", lambda: advance(each))

    # Tables.

    def write_tables(self) -> list[Path]:
        """Write the tables of everything that is finished; return them."""
        written = []
        tables = {**self._baseline_tables(), **self._finetuning_tables(), **self._reinforcement_tables()}
        for name, parts in tables.items():
            if parts:
                written.append(self.out / TABLES / f"{name}.csv")
                put_table(written[-1], pd.concat(parts, ignore_index=True), float_format=FORMAT)
        folder = self.out / "reinforcement"
        for path, name in (
            (folder / reinforcement.SCAN, "scan"),
            (folder / reinforcement.COMPARISON / "comparison.csv", "reinforcement"),
            (folder / reinforcement.COMPARISON / "curves.csv", "reinforcement-curves"),
        ):
            if path.is_file():
                written.append(self.out / TABLES / f"{name}.csv")
                put_table(written[-1], pd.read_csv(path), float_format=FORMAT)
        return written

    def _baseline_tables(self) -> dict[str, list[pd.DataFrame]]:
        rows, layers, changes = [], [], []
        references: dict[tuple[str, str], tuple[str, Runs]] = {}  # by the texts, the first run on them
        for name, survey in self.spec.surveys(self.texts).items():
            folder = self.out / "baseline" / name
            for cell in survey.cells():
                part, by_layer = parts_of(cell, folder)
                if by_layer.is_file():
                    rows.append(pd.read_csv(part))
                    layers.append(pd.read_csv(by_layer))
                runs = {cell.benchmark: cell.folder(folder)}
                # Two surveys may give one name to different files.
                texts = cell.benchmark, survey.benchmarks[cell.benchmark].prompts
                against, reference = references.setdefault(texts, (f"{name}: {cell.name}", runs))
                if by_layer.is_file() and reference is not runs and is_complete(reference[cell.benchmark]):
                    found = changes_of(part.with_name(f"{cell.name}-{CHANGES}"), runs, {against: reference})
                    changes.append(labelled(found.drop(columns="texts"), labels_of(name, cell)))
        return {"baseline": rows, "baseline-layers": layers, "baseline-changes": changes}

    def _finetuning_tables(self) -> dict[str, list[pd.DataFrame]]:
        how = self.spec.finetuning
        rows, layers, changes = [], [], []
        for name, seed in sorted(how.runs(), key=lambda run: list(how.arms).index(run[0])):
            if not any(is_measured(step_folder(self._arm(name, seed), step)) for step in how.marks[1:]):
                continue  # its start is that of all
            for step in how.marks:
                folder = step_folder(self._arm(name, seed), step) if step else self._start(how.arms[name].measured_on)
                if is_measured(folder):
                    labels = {"arm": name, "seed": seed, "step": step, "precision": how.precision}
                    rows.append(labelled(pd.read_csv(folder / ROWS), labels))
                    layers.append(labelled(pd.read_csv(folder / LAYERS), labels))
                    if others := self._compared(name, seed, step):
                        found = changes_of(folder / CHANGES, _runs(folder), others)
                        changes.append(labelled(found, labels))
        return {"finetuning": rows, "finetuning-layers": layers, "finetuning-changes": changes}

    def _reinforcement_tables(self) -> dict[str, list[pd.DataFrame]]:
        """Return by how much rho of a trained model is above that before training, and that of the first method."""
        arms = list(reinforcement.comparison_of(self.spec, self.out / "reinforcement").arms())
        changes = []
        for arm in arms:
            first = next(other for other in arms if other.spec.seed == arm.spec.seed)
            others = {"before": arm.folder / "before"}
            if first is not arm and first.samples.is_file():
                others[first.name] = first.folder / "after"
            if arm.samples.is_file():
                runs = {against: {"held-out": folder} for against, folder in others.items()}
                found = changes_of(arm.folder / CHANGES, {"held-out": arm.folder / "after"}, runs)
                changes.append(labelled(found.drop(columns="texts"), arm.labels))
        return {"reinforcement-changes": changes}

    def _compared(self, name: str, seed: int, step: int) -> dict[str, Runs]:
        """Return what a checkpoint is compared with: the model before, and the first arm's at this step and seed."""
        how = self.spec.finetuning
        if not step:
            return {}
        problems, first = how.arms[name].measured_on, next(iter(how.arms))
        others = {START: self._start(problems)}
        if name != first and (first, seed) in how.runs() and how.arms[first].measured_on == problems:
            others[first] = step_folder(self._arm(first, seed), step)
        return {against: _runs(folder) for against, folder in others.items() if is_measured(folder)}


def _runs(checkpoint: Path) -> Runs:
    """Return the runs of a checkpoint."""
    return {texts: checkpoint / texts for texts in TEXTS}


_DECIDING = ("marks", "batch_size", "precision", "problems", "targets", "max_new_tokens", "samples")
"""Fields of the fine-tuning that decide on the numbers of every arm."""


def run_study(
    spec: StudySpec,
    out: Path,
    only: Sequence[str] = PARTS,
    *,
    share: tuple[int, int] | None = None,
    dry_run: bool = False,
    wait: bool = False,
) -> Path:
    """Do what is left of a study, telling how long it will take; return the folder of its tables.

    Args:
        spec: What to do.
        out: A new folder, or one that holds this study.
        only: Parts to do.
        share: (i, n): do every n-th piece only, from the i-th on. All n shares can be done at the same time, in the
            same folder.
        dry_run: Only say what is left and how long it will take.
        wait: Wait while another process does one of these parts. Different parts can be done at the same time.

    Raises:
        InputError: Something cannot be used, or a piece failed; the others are done.
    """
    unknown = [part for part in only if part not in PARTS]
    if unknown:
        raise InputError(f"there is no part {unknown[0]!r}; choose among {', '.join(PARTS)}.")
    check_part(share)
    study = Study(spec, out)
    with ExitStack() as held:
        for part in only or PARTS:
            held.enter_context(owned(study.out / part, wait=wait, part=share))
        with owned(study.out, wait=True):  # no longer than it takes another part to begin
            study.begin()
            costs = costs_of(spec, study.tokenizer, study.texts, study.out / "costs.json")
        if "finetuning" in (only or PARTS):
            study.settle(dry_run)
        units = study.units(only or PARTS, costs, share)
        print(estimate_text(units), flush=True)
        if not dry_run:
            _run(study, units)
            for path in study.write_tables():
                print(path)
            if study.failures:
                raise InputError(f"{len(study.failures)} pieces failed; the first, {study.failures[0]}")
    return study.out / TABLES


def _run(study: Study, units: list[Unit]) -> None:
    with tqdm(total=round(sum(u.seconds for u in units) / 60, 1), unit="min", desc="study", disable=None) as bar:
        before = 0.0
        for number, unit in enumerate(units, 1):
            tqdm.write(f"[{number}/{len(units)}] {unit.part}: {unit.name}, about {duration(unit.seconds)}")
            spent = 0.0

            def advance(seconds: float, unit: Unit = unit) -> None:
                nonlocal spent
                spent = min(spent + seconds, unit.seconds)
                bar.n = round((before + spent) / 60, 2)  # noqa: B023
                bar.refresh()

            unit.run(advance)
            before += unit.seconds
            bar.n = round(before / 60, 2)
            bar.refresh()
            study.write_tables()


def estimate_text(units: list[Unit]) -> str:
    """Return what is left to do, and how long it is expected to take."""
    if not units:
        return "Everything is done; only the tables are written anew."
    rows = [(unit.part, unit.name, duration(unit.seconds)) for unit in units]
    total = duration(sum(unit.seconds for unit in units))
    return f"{text_table(('part', 'piece', 'about'), rows)}\nAltogether about {total} on this machine, as it is now."


def duration(seconds: float) -> str:
    """Return a time for reading."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
