"""The whole study of one model: answers, vectors, classifiers, steering, strength; each stage kept on disk."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file
from transformer_lens.model_bridge import TransformerBridge

import inversion
from inversion.critique.cases import Case
from inversion.critique.classifier import LayerProbe, fit_probes
from inversion.critique.judging import Verdict, interval, judge, rates, split_response
from inversion.critique.places import PLACES, mark, mean_interval, place_table, response_places, token_places
from inversion.critique.steering import ALPHAS, alphas, directions, steered
from inversion.critique.vectors import answer_means, critique_vectors
from inversion.errors import InputError
from inversion.files import claim, put, put_table
from inversion.measure import Measurement, measure_run
from inversion.models import describe_model, token_texts
from inversion.models.tokenization import decode
from inversion.progress import bar
from inversion.responses import Generation, Problem, end_tokens, generate
from inversion.responses.thinking import THINK_TAGS, token_parts

CONDITIONS = ("original", "injected")
FEWEST = 3
"""Pairs without which no vector is made of a split."""
_put = partial(put_table, float_format="%.6g")


@dataclass(frozen=True)
class Settings:
    """What the study does.

    max_new_tokens: Longest response.
    layer: Layer to steer; None takes the one whose classifier has the lowest validation loss.
    alphas: Coefficients of the vector.
    random: Random directions that serve as controls.
    steered: Most test problems to steer.
    measured: Most problems whose tokens are measured; they come from all splits.
    norm: Norm of the logit gradients.
    tags: What opens and what closes the model's thinking.
    resamples: Resamples of the problems.
    seed: Of the split, of the random directions and of the resampling.
    """

    max_new_tokens: int = 200
    layer: int | None = None
    alphas: tuple[float, ...] = ALPHAS
    random: int = 2
    steered: int = 60
    measured: int = 90
    norm: str = "nuclear"
    tags: tuple[str, str] = THINK_TAGS
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("max_new_tokens", 1), ("random", 0), ("steered", 1), ("measured", 0), ("resamples", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; give at least {least}.")
        if not self.alphas:
            raise InputError("there is no alpha to steer with; give at least one.")


@dataclass(frozen=True)
class Answered:
    """A case with a response: its ids, its text, and what became of it."""

    case: Case
    prompt: list[int]
    response: list[int]
    text: str
    finished: bool
    verdict: Verdict

    def answer_span(self, tokenizer: Any, tags: tuple[str, str]) -> tuple[int, int] | None:
        """Return where the final answer begins and ends, in tokens of prompt and response; None without an answer."""
        count = len(self.response) - self.finished  # the end token belongs to no answer
        parts = token_parts(token_texts(tokenizer, self.response[:count]), tags, opened=True)
        places = [i for i, part in enumerate(parts) if part == "answer"]
        if not places:
            return None
        return len(self.prompt) + places[0], len(self.prompt) + count


def study(
    model: TransformerBridge,
    cases: Sequence[Case],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    source: str = "",
    tell: Callable[[str], None] = print,
) -> Path:
    """Study how a model recovers from errors that it is made to go on from, and write tables into a folder.

    Each stage is kept, so a study that was interrupted goes on where it stopped.

    Args:
        model: A bridge with a tokenizer.
        cases: From :func:`read_cases` or :func:`inversion.critique.mistakes.inject_error`.
        out: Folder.
        settings: What to do.
        source: Where the cases come from, for the record.
        tell: Is called with a line where a stage has to be left out.

    Returns:
        The folder, with ``outcomes.csv`` and ``rates.csv``; where there are enough recoveries ``probe.csv``,
        ``steering.csv`` and ``vectors.safetensors``; ``strength.csv`` and ``rho.csv``; and the runs in ``runs``.

    Raises:
        InputError: A case is too long for the model, or the folder holds something else.
    """
    settings, folder = settings or Settings(), Path(out).expanduser()
    if len(cases) < 2 * FEWEST:
        raise InputError(f"{len(cases)} problems are too few to study; give at least {2 * FEWEST}.")
    if settings.layer is not None and not 0 <= settings.layer < len(model.blocks):
        raise InputError(f"layer {settings.layer} is not there; choose among 0 to {len(model.blocks) - 1}.")
    claim(folder, "critique.json", _record(model, cases, settings, source), what="critique study")
    answered = {name: _answers(model, cases, name, settings, folder) for name in CONDITIONS}
    verdicts = {name: [a.verdict for a in found] for name, found in answered.items()}
    splits = _splits(len(cases), settings.seed)
    _put(folder / "outcomes.csv", _outcomes(answered, splits))
    _put(folder / "rates.csv", rates(verdicts, [case.task for case in cases]))
    found = _vectors_and_probes(model, answered, splits, settings)
    if isinstance(found, str):
        tell(found)
    else:
        vectors, probes = found
        put(folder / "vectors.safetensors", lambda part: save_file({"vectors": vectors}, part))
        _put(folder / "probe.csv", pd.DataFrame([asdict(probe) for probe in probes]))
        layer = min(probes, key=lambda p: p.validation_loss).layer if settings.layer is None else settings.layer
        _put(folder / "steering.csv", _steering(model, cases, splits, vectors, layer, settings, folder))
    if settings.measured:
        _strength(model, answered, settings, folder)
    return folder


def _record(model: TransformerBridge, cases: Sequence[Case], settings: Settings, source: str) -> dict[str, Any]:
    texts = [[case.prompt, case.opening, case.answer] for case in cases]
    return {
        "model": describe_model(model),
        "cases": {
            "source": source,
            "count": len(cases),
            "sha256": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
        },
        "settings": json.loads(json.dumps(asdict(settings))),
        "version": inversion.__version__,
    }


def _splits(count: int, seed: int) -> np.ndarray:
    """Give every problem a split: half train, a fifth validation, the rest test."""
    names = np.repeat(["train", "validation", "test"], [count // 2, count // 5, count - count // 2 - count // 5])
    return np.random.default_rng(seed).permutation(names)


def _answers(
    model: TransformerBridge, cases: Sequence[Case], condition: str, settings: Settings, folder: Path
) -> list[Answered]:
    """Let the model answer every case greedily, or read what it answered before."""
    path = folder / f"responses-{condition}.json"
    encoded = [case.encode(model.tokenizer) for case in cases]
    openings = [opening if condition == "injected" else [] for _, opening in encoded]
    if not path.is_file():
        prompts = [prompt + opening for (prompt, _), opening in zip(encoded, openings, strict=True)]
        written = generate(model, prompts, Generation(0.0, settings.max_new_tokens), settings.seed)
        put(path, lambda part: part.write_text(json.dumps(written), encoding="utf-8"))
    found = []
    stored = json.loads(path.read_text(encoding="utf-8"))
    for case, (prompt, _), opening, (ids, finished) in zip(cases, encoded, openings, stored, strict=True):
        found.append(_answered(model, case, prompt, opening, ids, finished, settings.tags))
    return found


def _answered(
    model: TransformerBridge,
    case: Case,
    prompt: list[int],
    opening: list[int],
    ids: list[int],
    finished: bool,
    tags: tuple[str, str],
) -> Answered:
    ended = finished and bool(ids) and ids[-1] in end_tokens(model)
    text = decode(model.tokenizer, opening + (ids[:-1] if ended else ids))
    return Answered(case, prompt, opening + ids, text, ended, judge(case, text, tags))


def _outcomes(answered: dict[str, list[Answered]], splits: np.ndarray) -> Any:
    rows = []
    for number, (original, injected) in enumerate(zip(*answered.values(), strict=True)):
        case = original.case
        rows.append(
            {
                "problem": number,
                "task": case.task,
                "split": splits[number],
                "original": original.verdict.outcome,
                "injected": injected.verdict.outcome,
                "answer": case.answer,
                "opening": case.opening,
                "original_text": original.text,
                "injected_text": injected.text,
            }
        )
    return pd.DataFrame(rows)


def _vectors_and_probes(
    model: TransformerBridge, answered: dict[str, list[Answered]], splits: np.ndarray, settings: Settings
) -> tuple[np.ndarray, list[LayerProbe]] | str:
    """Return the vectors and classifiers, or why there are none."""
    spans = {name: [a.answer_span(model.tokenizer, settings.tags) for a in found] for name, found in answered.items()}
    right = Verdict(True, True)
    kinds: dict[str, list[int]] = {"hidden critique": [], "both wrong": []}
    for number, (original, injected) in enumerate(zip(*answered.values(), strict=True)):
        usable = original.verdict == right and all(spans[name][number] for name in CONDITIONS)
        if usable and injected.verdict.outcome in kinds:
            kinds[injected.verdict.outcome].append(number)
    pairs = {split: [n for n in kinds["hidden critique"] if splits[n] == split] for split in np.unique(splits)}
    fewest = min(pairs, key=lambda split: len(pairs[split]))
    if len(pairs[fewest]) < FEWEST:
        return (
            f"No vector, no classifier, no steering: there are {len(pairs[fewest])} problems with a hidden critique "
            f"in the {fewest} split, and {FEWEST} are needed in each."
        )
    numbers = sorted({n for found in pairs.values() for n in found} | set(kinds["both wrong"]))
    shown = bar(numbers, desc="activations", unit="problem")
    means = {(name, n): _means(model, answered[name][n], spans[name][n]) for n in shown for name in CONDITIONS}

    def stacked(name: str, chosen: Sequence[int]) -> np.ndarray:
        shape = (0, len(model.blocks), model.cfg.d_model)
        return np.stack([means[name, n] for n in chosen]) if chosen else np.zeros(shape)

    both = {split: (stacked("injected", chosen), stacked("original", chosen)) for split, chosen in pairs.items()}
    failed = [n for n in kinds["both wrong"] if splits[n] == "test"]
    wrong = stacked("injected", failed), stacked("original", failed)
    probes = fit_probes(
        both["train"], both["validation"], both["test"], wrong, resamples=settings.resamples, seed=settings.seed
    )
    return critique_vectors(*both["train"]), probes


def _means(model: TransformerBridge, answered: Answered, span: tuple[int, int] | None) -> np.ndarray:
    assert span is not None
    return answer_means(model, answered.prompt + answered.response, *span)


def _steering(
    model: TransformerBridge,
    cases: Sequence[Case],
    splits: np.ndarray,
    vectors: np.ndarray,
    layer: int,
    settings: Settings,
    folder: Path,
) -> Any:
    """Return accuracy on injected and on clean test problems by direction and coefficient."""
    chosen = [case for case, split in zip(cases, splits, strict=True) if split == "test"][: settings.steered]
    named = directions(vectors, layer, settings.random, settings.seed)
    points = [(name, alpha) for name in named for alpha in alphas(settings.alphas)]
    base = _steered_answers(model, chosen, layer, None, settings, folder / "steering" / "none.json")
    rows = []
    for name, alpha in bar([("no steering", 0.0), *points], desc="steering", unit="point"):
        path = folder / "steering" / f"{name.replace(' ', '-')}-{alpha:+}.json"
        right = base
        if alpha:
            right = _steered_answers(model, chosen, layer, alpha * named[name], settings, path)
        for condition in CONDITIONS:
            count = sum(right[condition])
            row = {"layer": layer, "direction": name, "alpha": alpha, "condition": condition, "problems": len(chosen)}
            low, high = interval(count, len(chosen))
            # Found: wrong without steering, right with it. Invented, on clean problems: right without, wrong with it.
            gained = sum(now and not before for now, before in zip(right[condition], base[condition], strict=True))
            lost = sum(before and not now for now, before in zip(right[condition], base[condition], strict=True))
            share = count / len(chosen)
            rows.append({**row, "accuracy": share, "low": low, "high": high, "gained": gained, "lost": lost})
    return pd.DataFrame(rows)


def _steered_answers(
    model: TransformerBridge,
    cases: Sequence[Case],
    layer: int,
    vector: np.ndarray | None,
    settings: Settings,
    path: Path,
) -> dict[str, list[bool]]:
    """Return whether each answer is right, injected and not, with a vector added; kept in a file."""
    if not path.is_file():
        encoded = [case.encode(model.tokenizer) for case in cases]
        prompts = [prompt for prompt, _ in encoded] + [prompt + opening for prompt, opening in encoded]
        length = Generation(0.0, settings.max_new_tokens)
        added = np.zeros(model.cfg.d_model) if vector is None else vector
        with steered(model, layer, added):
            written = generate(model, prompts, length, settings.seed)
        right = []
        for number, (ids, _) in enumerate(written):
            condition, (case, (_, opening)) = (
                number // len(cases),
                [*zip(cases, encoded, strict=True)][number % len(cases)],
            )
            ends = end_tokens(model)
            start = opening if condition else []
            text = decode(model.tokenizer, start + [token for token in ids if token not in ends])
            right.append(judge(case, text, settings.tags).answer)
        found = {"original": right[: len(cases)], "injected": right[len(cases) :]}
        put(path, lambda part: part.write_text(json.dumps(found), encoding="utf-8"))
    return json.loads(path.read_text(encoding="utf-8"))


def _strength(model: TransformerBridge, answered: dict[str, list[Answered]], settings: Settings, folder: Path) -> None:
    """Measure the tokens of originals and injected responses, and write where strength and entropy stand."""
    runs = {}
    for name, found in answered.items():
        problems = [
            Problem(
                a.case.prompt,
                a.text,
                a.case.answer,
                a.case.task,
                a.case.score,
                prompt_token_ids=tuple(a.prompt),
                response_token_ids=tuple(a.response),
                finished=True,
            )
            for a in found[: settings.measured]
        ]
        measurement = Measurement(norms=(settings.norm,))
        path = measure_run(model, problems, folder / "runs" / name, source=f"critique, {name}", measurement=measurement)
        runs[name] = inversion.load_run(path)
    groups: dict[str, list[Any]] = {}
    members: dict[str, list[int]] = {}
    numbers = runs["injected"]["response"].values
    places = np.full(len(numbers), "", dtype=object)
    for number, injected in enumerate(answered["injected"][: settings.measured]):
        own = np.flatnonzero(numbers == number)
        capture = runs["injected"].isel(token=own)
        places[own] = token_places(capture, mark(injected.case, injected.text, settings.tags))
        group = injected.verdict.outcome
        groups.setdefault(group, []).append(response_places(capture, places[own], settings.norm))
        members.setdefault(group, []).append(number)
    _put(folder / "strength.csv", place_table(groups, settings.seed, settings.resamples))
    _put(folder / "matched.csv", _matched(runs, answered, settings))
    rows = [("original", "all", *_rho(runs["original"], settings))]
    rows += [("injected", "all", *_rho(runs["injected"], settings))]
    parts = {group: np.isin(numbers, chosen) for group, chosen in members.items()}
    parts |= {place: places == place for place in PLACES}
    for name, chosen in parts.items():
        if len(np.unique(numbers[chosen])) > 1:
            rows.append(("injected", name, *_rho(runs["injected"].isel(token=np.flatnonzero(chosen)), settings)))
    names = ["condition", "group", "responses", "tokens", "rho", "low", "high", "p_value"]
    _put(folder / "rho.csv", pd.DataFrame(rows, columns=names))


def _rho(run: Any, settings: Settings) -> tuple[float, ...]:
    found = inversion.correlate(run, norm=settings.norm, resamples=settings.resamples, seed=settings.seed)
    return found.n_responses, found.n_tokens, found.estimate, found.low, found.high, found.p_value


def _matched(runs: dict[str, Any], answered: dict[str, list[Answered]], settings: Settings) -> Any:
    """Compare the corrected token with the same token of the same answer where nothing had to be corrected.

    Both answers are right, so they are the same text; only what was thought before differs.
    """
    differences: dict[str, list[float]] = {"strength, logarithm of the ratio": [], "entropy, bits": []}
    pairs = list(zip(*(found[: settings.measured] for found in answered.values()), strict=True))
    for number, (original, injected) in enumerate(pairs):
        at = mark(injected.case, injected.text, settings.tags).correction
        if at is None or original.verdict != Verdict(True, True) or not injected.verdict.answer:
            continue
        offset = at - (len(injected.text) - len(split_response(injected.text, settings.tags)[1]))
        answers = [split_response(a.text, settings.tags)[1] for a in (original, injected)]
        if answers[0] != answers[1]:
            continue
        place = len(original.text) - len(answers[0]) + offset
        values = [
            _token_at(runs[name], number, at if name == "injected" else place, settings.norm) for name in CONDITIONS
        ]
        differences["strength, logarithm of the ratio"].append(float(np.log(values[1][0] / values[0][0])))
        differences["entropy, bits"].append(values[1][1] - values[0][1])
    rows = [(name, *mean_interval(found, settings.seed, settings.resamples)) for name, found in differences.items()]
    return pd.DataFrame(rows, columns=["injected minus original", "problems", "mean", "low", "high"])


def _token_at(run: Any, number: int, character: int, norm: str) -> tuple[float, float]:
    capture = run.isel(token=np.flatnonzero(run["response"].values == number))
    ends = np.cumsum([len(text) for text in capture["token_text"].values])
    token = int(np.searchsorted(ends, character, side="right"))
    one = capture.isel(token=token)
    return float(one[norm].mean()), float(one["entropy_bits"])
