"""What the pieces of a study take on this machine, from a minute of timing that is kept beside the study."""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from inversion.experiments.comparison import CompareSpec
from inversion.experiments.pretrained.finetuning import build_trainer
from inversion.experiments.pretrained.measuring import NORMS
from inversion.experiments.pretrained.spec import ArmSpec, FinetuningSpec, StudySpec, TextSpec
from inversion.experiments.pretrained.texts import frame_of, held_out, training_examples
from inversion.experiments.survey import Cell
from inversion.files import put
from inversion.measure import BATCH
from inversion.models import load_model, prompt_ids
from inversion.probes.capture import PROJECTIONS, select_layers
from inversion.probes.estimate import Speed, measure_speed
from inversion.probes.pace import Pace
from inversion.responses import Generation, write_responses

TIMED_TOKENS = 12
REINFORCED = 4 / 3
"""Steps of supervised training on as many tokens that a step of reinforcement learning is worth: one pass more."""


@dataclass(frozen=True)
class Costs:
    """Seconds, as measured here.

    full, lora: One step of supervised training on a batch of texts of median length; ``lora`` is None where no arm has
        adapters.
    batch_tokens: Tokens of that batch.
    prompt: Reading the prompts of ``BATCH`` responses.
    token: Writing one token of each of them.
    speeds: Of the probe, timed on texts of problems and on traces, the shorter ones first.
    pace: How the probe groups its targets.
    texts: For lengths.
    """

    full: float
    lora: float | None
    batch_tokens: int
    prompt: float
    token: float
    speeds: tuple[Speed, ...]
    pace: Pace
    texts: TextSpec

    def step(self, arm: ArmSpec) -> float:
        """Return the seconds of a training step."""
        return self.full if arm.lora is None or self.lora is None else self.lora

    def writing(self, responses: int, length: int) -> float:
        """Return the seconds of writing responses of a length."""
        return responses / BATCH * (self.prompt + length * self.token)

    def probing(self, responses: int, length: int, targets: int | None) -> float:
        """Return the seconds of measuring responses that end at a length."""
        speed = min(self.speeds, key=lambda speed: abs(math.log(length / speed.length)))
        return responses * speed.seconds(self.pace, length, targets)

    def checkpoint(self, how: FinetuningSpec) -> float:
        """Return the seconds of measuring one checkpoint."""
        length = self.texts.longest
        sampled = self.probing(how.problems, length // 2 + how.max_new_tokens, how.targets)
        worked = self.probing(how.problems, length, how.targets)
        return sampled + worked + self.writing((1 + how.samples) * how.problems, how.max_new_tokens)

    def cell(self, cell: Cell, folder: Path) -> float:
        """Return the seconds of a run of the baseline."""
        _, benchmark, measurement = cell.parts
        given = Path(benchmark.prompts).stem
        with (folder / f"{given}.jsonl").open(encoding="utf-8") as lines:
            count = sum(1 for _ in lines)
        count = min(count, benchmark.limit or count)
        if given == "traces":
            return self.probing(count, self.texts.longest // 2 + self.texts.trace_tokens, measurement.targets)
        if given.endswith("-worked"):
            return self.probing(count, self.texts.longest, measurement.targets)
        longest = measurement.max_new_tokens
        probing = self.probing(count, self.texts.longest // 2 + longest, measurement.targets)
        return probing + self.writing(count, longest)

    def scan(self, spec: StudySpec) -> float:
        """Return the seconds of trying all tasks."""
        how = spec.reinforcement.scan
        length = int(spec.reinforcement.compare.get("max_completion_length", 96))
        return len(how.tasks) * self.writing(how.problems * how.samples, length)

    def reinforcement(self, comparison: CompareSpec) -> float:
        """Return the seconds of one training of the comparison, with its measurements after it."""
        train = comparison.train
        length = train.max_completion_length
        responses, held_out = train.per_device_train_batch_size, train.held_out_limit
        tokens = responses * (self.texts.longest // 2 + length)
        step = self.writing(responses, length) + REINFORCED * self.full * tokens / self.batch_tokens
        measured = self.probing(held_out, self.texts.longest // 2 + length, train.held_out_targets)
        return train.max_steps * step + measured + self.writing((1 + comparison.samples) * held_out, length)


def costs_of(spec: StudySpec, tokenizer: Any, texts: Path, path: Path) -> Costs:
    """Time what a study is made of, or read what was timed before.

    Args:
        spec: The study.
        tokenizer: The checkpoint's.
        texts: Folder of the texts.
        path: Where the times are kept, with what they depend on.
    """
    bridge = load_model(spec.model, spec.device)
    how = spec.finetuning
    rank = next((arm.lora for arm in how.arms.values() if arm.lora is not None and arm.seeds), None)
    lengths = {"longest": spec.texts.longest, "trace_tokens": spec.texts.trace_tokens}
    key = {"batch_size": how.batch_size, **lengths, "precision": how.precision, "lora": rank}
    kept = json.loads(path.read_text()) if path.is_file() else {}
    if kept.get("key") != key:
        ordered = sorted(
            training_examples(texts, "worked", tokenizer, spec.texts), key=lambda text: len(text.input_ids)
        )
        middle = (len(ordered) - how.batch_size) // 2
        examples = ordered[middle : middle + how.batch_size]
        prompt, token = _writing(spec, bridge, tokenizer, texts)
        kept = {
            "key": key,
            "batch_tokens": how.batch_size * len(examples[-1].input_ids),
            "full": _step(spec, ArmSpec(), examples, tokenizer),
            "lora": None if rank is None else _step(spec, ArmSpec(lora=rank), examples, tokenizer),
            "prompt": prompt,
            "token": token,
            "speeds": [
                dataclasses.asdict(measure_speed(bridge, length, NORMS, select_layers(bridge, None), PROJECTIONS))
                for length in (spec.texts.longest, spec.texts.longest // 2 + spec.texts.trace_tokens)
            ],
        }
        put(path, lambda part: part.write_text(json.dumps(kept, indent=1) + "\n"))
    speeds = tuple(_speed(values) for values in kept["speeds"])
    times = {name: kept[name] for name in ("full", "lora", "batch_tokens", "prompt", "token")}
    return Costs(**times, speeds=speeds, pace=Pace(bridge), texts=spec.texts)


def _speed(values: dict[str, Any]) -> Speed:
    """Read back what JSON has made lists of."""
    tuples: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Speed(**tuples)


def _step(spec: StudySpec, arm: ArmSpec, examples: list[Any], tokenizer: Any) -> float:
    """Return the seconds of a step without the optimizer's own, the better of two."""
    with TemporaryDirectory() as scratch:
        trainer: Any = build_trainer(spec, arm, 0, examples, tokenizer, Path(scratch))
    batch = next(iter(trainer.get_train_dataloader()))

    def once() -> None:
        with trainer.accelerator.autocast():
            loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        trainer.model.zero_grad()

    return min(_seconds(once) for _ in range(2))


def _writing(spec: StudySpec, bridge: Any, tokenizer: Any, texts: Path) -> tuple[float, float]:
    """Return the seconds of reading the prompts of a batch, and of writing one token of each response."""
    problems = frame_of(spec.texts).apply(held_out(texts, "worked", BATCH, False), tokenizer, spec.model)
    prompts = [list(p.prompt_token_ids or prompt_ids(tokenizer, p.prompt)) for p in problems]
    first, all_of_them = (
        _seconds(lambda length=length: write_responses(bridge, prompts, Generation(1.0, length), 0))
        for length in (1, 1 + TIMED_TOKENS)
    )
    scale = BATCH / len(prompts)
    return scale * first, scale * max(0.0, all_of_them - first) / TIMED_TOKENS


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
