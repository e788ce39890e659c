r"""What a pretrained model is measured and trained on, written to a folder once and read from there.

``held-out`` and ``chains-held-out`` hold problems (prompt, answer); ``held-out-worked`` and ``chains-held-out-worked``
the same ones with a worked solution; ``traces`` reasoning traces of other models, cut; ``train-KIND`` what each kind of
arm is trained on: prompt and response, or windows of a trace. All are JSON Lines.

Worked solutions are GSM8K's, without its calculator marks, where a folder has them; otherwise those of reasoning-gym's
``gsm_symbolic``, whose problems were made after GSM8K's. Chains of thought are the demo's
(``inversion.demo.tasks``).
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from inversion.demo import tasks as demo
from inversion.errors import InputError
from inversion.experiments.pretrained.spec import StudySpec, TextSpec
from inversion.experiments.rows import Row
from inversion.files import claim, put_lines
from inversion.models import prompt_ids, response_ids
from inversion.models.checkpoint import locate
from inversion.models.weights import load_tokenizer
from inversion.responses import Frame, Problem, read_problems
from inversion.responses.benchmarks import after_marks
from inversion.responses.sources import read_rows
from inversion.scoring import scorer_for

GSM8K_TRAIN, GSM8K_TEST, TRACES = "gsm8k-train-*.jsonl", "gsm8k-test-*.jsonl", "r1-distill-traces-*.jsonl"
"""Files of the data's folder."""
RECORD = "texts.json"
HELD_OUT = {"worked": "held-out", "chains": "chains-held-out"}
"""Problems that checkpoints answer -> their file; that of their solutions ends in ``-worked``."""
THINK = "<think>\n"
_MARKS = re.compile(r"<<[^>]*>>")
MADE = "gsm_symbolic"
_HELD_OUT_SEED = 10**6
"""Where held-out problems of ``gsm_symbolic`` begin: item i of a seed is item 0 of seed + i."""
_TRIED = 20
"""Problems that are made for each one wanted, since some are too long."""


@dataclass(frozen=True)
class Worked:
    """A problem with a worked solution."""

    prompt: str
    response: str
    answer: str
    task: str


@dataclass(frozen=True)
class Example:
    """What one training text is made of: n token ids, and which of them carry loss."""

    input_ids: list[int]
    labels: list[int]


IGNORED = -100


def frame_of(spec: TextSpec) -> Frame:
    """Return what stands around each question."""
    return Frame(chat=True, system=spec.system) if spec.chat else Frame(template="qa")


def tokenizer_of(spec: StudySpec) -> Any:
    """Return the checkpoint's tokenizer.

    Raises:
        InputError: It has none, or no chat template although the study asks for one.
    """
    tokenizer = load_tokenizer(locate(spec.model), {})
    if tokenizer is None or tokenizer.eos_token is None:
        raise InputError(f"{spec.model} came without a tokenizer that has an end token; give a checkpoint with one.")
    if spec.texts.chat and not tokenizer.chat_template:
        raise InputError(f"{spec.model} has no chat template; add texts.chat=false.")
    return tokenizer


def write_texts(spec: StudySpec, tokenizer: Any, folder: Path) -> None:
    """Write every file to ``folder``, unless they are there.

    Raises:
        InputError: The folder holds texts of other settings, or too few problems are short enough.
    """
    record = {"model": spec.model, "data": spec.data, "seed": spec.seed, "texts": asdict(spec.texts)}
    claim(folder, RECORD, record, what="choice of texts")
    for name, make in _files(spec, tokenizer).items():
        path = folder / f"{name}.jsonl"
        if not path.is_file() and (rows := list(make())):
            put_lines(path, rows)


def _files(spec: StudySpec, tokenizer: Any) -> dict[str, Callable[[], Iterable[Row]]]:
    texts = spec.texts

    def fitting(problems: Iterable[Worked], count: int) -> list[Worked]:
        fits = (p for p in problems if len(example(p.prompt, p.response, tokenizer, texts).input_ids) <= texts.longest)
        return list(islice(fits, count))

    def held_out(problems: Callable[[], Iterable[Worked]], worked: bool) -> Callable[[], list[Row]]:
        def rows() -> list[Row]:
            found = fitting(problems(), texts.held_out)
            if len(found) < texts.held_out:
                raise InputError(
                    f"only {len(found)} problems fit into texts.longest={texts.longest} tokens with their solutions; "
                    f"raise it, or lower texts.held_out, which is {texts.held_out}."
                )
            end = tokenizer.eos_token if worked else ""
            return [
                {**asdict(p), "response": p.response + end} if worked else {"prompt": p.prompt, "answer": p.answer}
                for p in found
            ]

        return rows

    def train(problems: Callable[[], Iterable[Worked]], change: Callable[[list[Worked]], list[Row]]) -> Any:
        return lambda: change(fitting(problems(), texts.train))

    folder = None if spec.data is None else Path(spec.data)
    sources = {
        "held-out": lambda: worked_problems(folder, "held_out", spec.seed, _TRIED * texts.held_out),
        "train": lambda: worked_problems(folder, "train", spec.seed, _TRIED * texts.train),
        "chains-held-out": lambda: chains("held_out", spec.seed, _TRIED * texts.held_out),
        "chains": lambda: chains("train", spec.seed, _TRIED * texts.train),
    }
    return {
        "held-out": held_out(sources["held-out"], False),
        "held-out-worked": held_out(sources["held-out"], True),
        "chains-held-out": held_out(sources["chains-held-out"], False),
        "chains-held-out-worked": held_out(sources["chains-held-out"], True),
        "traces": lambda: _cut_traces(folder, texts, tokenizer),
        "train-worked": train(sources["train"], lambda found: [asdict(p) for p in found]),
        "train-shuffled": train(sources["train"], lambda found: [_shuffled(p, spec.seed) for p in found]),
        "train-prompts": train(sources["train"], lambda found: [{"prompt": p.prompt, "response": None} for p in found]),
        "train-chains": train(sources["chains"], lambda found: [asdict(p) for p in found]),
        "train-traces": lambda: traces(folder),
    }


def worked_problems(data: Path | None, split: demo.Split, seed: int, count: int) -> Iterator[Worked]:
    """Yield problems with worked solutions: all of GSM8K's where the folder has them, else ``count`` of our own."""
    found = _file(data, GSM8K_TEST if split == "held_out" else GSM8K_TRAIN)
    if found is not None:
        for row in read_rows(str(found), None, None, None, None):
            solution = row["answer"]
            yield Worked(row["question"], _MARKS.sub("", solution), after_marks(solution) or "", "gsm8k")
        return
    from reasoning_gym import create_dataset

    start = seed + (_HELD_OUT_SEED if split == "held_out" else 0)
    for entry in create_dataset(MADE, seed=start, size=count):
        yield Worked(entry["question"], entry["metadata"]["answer_cot"], str(entry["answer"]), MADE)


def chains(split: demo.Split, seed: int, count: int) -> Iterator[Worked]:
    """Yield problems of the demo's tasks with chains of thought between tags; the split is by a hash of the prompt."""
    streams = [demo.problem_stream(task, split, seed) for task in demo.TASKS]
    seen: set[str] = set()
    for p in islice((p for turn in zip(*streams, strict=True) for p in turn), count):
        if p.prompt not in seen:
            seen.add(p.prompt)
            text = demo.response_for(p, "chain", random.Random(f"{seed}/{p.prompt}"))
            yield Worked(p.prompt, text, p.answer, p.task)


def traces(data: Path | None) -> list[Row]:
    """Return reasoning traces, which open and close their thinking; none where the folder has none."""
    found = _file(data, TRACES)
    if found is None:
        return []
    rows = read_rows(str(found), None, None, None, None)
    return [{"prompt": row["prompt"].removesuffix(THINK).strip(), "response": THINK + row["solution"]} for row in rows]


def _cut_traces(data: Path | None, spec: TextSpec, tokenizer: Any) -> list[Row]:
    """Return the beginnings of traces, as the tokenizer spells them."""
    cut = []
    for row in traces(data)[: spec.traces]:
        ids = response_ids(tokenizer, row["response"])[: spec.trace_tokens]
        cut.append({"prompt": row["prompt"], "response": tokenizer.decode(ids, clean_up_tokenization_spaces=False)})
    return cut


def _shuffled(problem: Worked, seed: int) -> Row:
    """Return a problem with the words of its solution in random order: its tokens without its reasoning."""
    words = problem.response.split()
    random.Random(f"{seed}/{problem.prompt}").shuffle(words)
    return {"prompt": problem.prompt, "response": " ".join(words)}


def _file(folder: Path | None, pattern: str) -> Path | None:
    return None if folder is None else next(iter(sorted(folder.glob(pattern))), None)


def example(prompt: str, response: str | None, tokenizer: Any, spec: TextSpec) -> Example:
    """Return a training text: the framed prompt, and the response with an end token, which alone carries loss.

    Without a response the prompt carries it.
    """
    (framed,) = frame_of(spec).apply([Problem(prompt)], tokenizer, "the model")
    before = list(framed.prompt_token_ids or prompt_ids(tokenizer, framed.prompt))
    if response is None:
        return Example(before, before)
    after = response_ids(tokenizer, response + tokenizer.eos_token)
    return Example(before + after, [IGNORED] * len(before) + after)


def training_examples(folder: Path, kind: str, tokenizer: Any, spec: TextSpec) -> list[Example]:
    """Return what an arm is trained on; traces are cut into windows, of which those with loss are kept.

    Raises:
        InputError: There are no texts of this kind.
    """
    path = folder / f"train-{kind}.jsonl"
    if not path.is_file():
        raise InputError(f"there are no {kind} to train on without a folder that holds {TRACES}; name it with --data.")
    rows = read_rows(str(path), None, None, None, None)
    found = [example(row["prompt"], row["response"], tokenizer, spec) for row in rows]
    return [window for text in found for window in _windows(text, spec.longest)]


def _windows(text: Example, longest: int) -> Iterator[Example]:
    for start in range(0, len(text.input_ids), longest):
        part = slice(start, start + longest)
        if any(label != IGNORED for label in text.labels[part]):
            yield Example(text.input_ids[part], text.labels[part])


def held_out(folder: Path, name: str, count: int, worked: bool) -> list[Problem]:
    """Return the first held-out problems of a kind, with a worked solution as their response or without."""
    path = folder / f"{HELD_OUT[name]}{'-worked' if worked else ''}.jsonl"
    kind = "number" if name == "worked" else "tags"
    # What gives no answer is wrong: the training is to teach giving one.
    return [replace(p, scorer=scorer_for(kind, p.answer, form_required=True)) for p in read_problems(str(path), count)]
