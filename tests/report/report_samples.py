"""Runs and a critique study on disk whose every number is known, some of whose text is hostile."""

import hashlib

import numpy as np
import pandas as pd
import xarray as xr

from inversion.runs import RunWriter

LAYERS, PROJECTIONS, NORMS = [0, 1], ["q", "o"], ["nuclear", "frobenius"]
HOSTILE = [
    "<script>alert(1)</script>",
    "</script>",
    "<!--",
    '"quoted"',
    "'",
    "&amp;",
    "\u202eoverride",
    "\u200f",
    "\u2028",
    "{{ data }}",
]


def words_of(k: int) -> list[str]:
    """Tokens of the k-th response: thinking, then an answer."""
    middle = HOSTILE if k == 0 else [" ", "a", f"w{k}", "\n", " b "][: 2 + k % 4]
    return ["<think>", *middle, "</think>", "so", str(k)]


def capture_of(k: int, shift: float = 0.0) -> xr.Dataset:
    """A response whose entropy rises from token to token; its strength follows t % 3, layer and projection."""
    words = words_of(k)
    n = len(words)
    t = np.arange(n)
    grid = 10.0 * np.arange(2)[None, :, None] + np.arange(2)[None, None, :] + (t % 3)[:, None, None] + 1 + shift
    entropy = (1 + k + t) / 10 + 0.001 * t * t
    return xr.Dataset(
        {
            "token_id": ("token", [sum(map(ord, word)) % 1000 for word in words]),
            "token_text": ("token", words),
            "position": ("token", t),
            "entropy_bits": ("token", entropy),
            "surprisal_bits": ("token", 2 * entropy),
            "logit_space": ("token", np.tanh(entropy)),
            "layer_entropy_bits": (("token", "layer"), np.repeat(entropy[:, None], 2, 1)),
            "nuclear": (("token", "layer", "projection"), grid.astype(np.float32)),
            "frobenius": (("token", "layer", "projection"), np.sqrt(grid).astype(np.float32)),
        },
        coords={"layer": LAYERS, "projection": PROJECTIONS},
    )


def score_of(k: int) -> float:
    """Wrong, right, unscored in turn."""
    return [0.0, 1.0, float("nan")][k % 3]


def write_run(folder, count: int = 9, shift: float = 0.0, model: str = "toy & <b>bold</b>"):
    """Write a run of ``count`` responses and return its folder."""
    manifest = {
        "model": {"model": model},
        "measurement": {"norms": NORMS, "layers": LAYERS, "projections": PROJECTIONS, "quantity": "logit"},
        "responses": {"seed": 0, "count": count},
        "versions": {},
    }
    rows, captures = [], []
    for k in range(count):
        prompt = f"<img src=x onerror=alert(2)> What is {k}?"
        captures.append(capture_of(k, shift))
        rows.append(
            {
                "response": k,
                "prompt_id": hashlib.sha256(prompt.encode()).hexdigest()[:12],
                "task": "sums",
                "prompt": prompt,
                "text": "".join(words_of(k)),
                "answer": str(k),
                "score": score_of(k),
                "finished": True,
                "n_tokens": len(words_of(k)),
                "prompt_token_ids": [1],
            }
        )
    RunWriter(folder, manifest).write(0, captures, rows)
    return folder


def write_study(folder):
    """Write a critique study as its command leaves it, with two runs and without steering; return its folder."""
    folder.mkdir()
    (folder / "critique.json").write_text("{}")
    shares = (("both right", 0.25), ("hidden critique", 0.35), ("both wrong", 0.4), ("answer right", 0.6))
    rates = [
        (condition, task, outcome, 40, round(40 * share), share, share - 0.1, share + 0.1)
        for condition in ("original", "injected")
        for task in ("all", HOSTILE[0])
        for outcome, share in shares
    ]
    probe = [(layer, 0.6 + layer / 10, 0.5, 0.8, 0.9, 0.8, 1.0, 0.3, 7, 0.55, 0.01) for layer in range(2)]
    places = ("before the error", "the error", "thinking after it", "answer", "correction", "correction minus answer")
    strength = [
        ("hidden critique", measure, place, 14, i / 10, i / 10 - 0.05, i / 10 + 0.05)
        for measure in ("strength", "entropy")
        for i, place in enumerate(places)
    ]
    rho = [("injected", "all", 9, 99, -0.25, -0.5, 0, 0.05)]
    for name, columns, rows in (
        ("rates", "condition task outcome problems count share low high", rates),
        ("probe", "layer auroc low high paired paired_low paired_high validation_loss epoch unrecovered length", probe),
        ("strength", "group measure place problems mean low high", strength),
        ("rho", "condition group responses tokens rho low high p_value", rho),
    ):
        pd.DataFrame(rows, columns=columns.split()).to_csv(folder / f"{name}.csv", index=False)
    matched = [("entropy, bits", 14, 0.125, 0.1, 0.15)]
    columns = ["injected minus original", "problems", "mean", "low", "high"]
    pd.DataFrame(matched, columns=columns).to_csv(folder / "matched.csv", index=False)
    for name in ("original", "injected"):
        write_run(folder / "runs" / name)
    return folder
