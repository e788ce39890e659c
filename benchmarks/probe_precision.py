"""How far a model's own precision moves norms and rho, on a real pretrained model.

    python benchmarks/probe_precision.py TRACES.jsonl --model smollm2

Reads the first prompts and solutions of a JSONL file (columns ``prompt`` and ``solution``), cuts each pair to a length,
and probes the same tokens in float32, bfloat16 and float16.
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau, pearsonr, spearmanr

import inversion

NORMS = ("nuclear", "frobenius", "spectral", "l1")
CORRELATIONS = {"Spearman": spearmanr, "Kendall": kendalltau, "Pearson": pearsonr}
DTYPES = ("float32", "bfloat16", "float16")


def probe_all(model: str, dtype: str, pairs: list[tuple[str, str]], length: int, norms: list[str]) -> list:
    """Probe every pair's first tokens, all of them."""
    bridge = inversion.load_model(model, dtype=dtype)
    captures = []
    for prompt, response in pairs:
        ids = [bridge.tokenizer(text)["input_ids"] for text in (prompt, response)]
        captures.append(inversion.probe(bridge, ids[0][-length // 2 :], ids[1][:length], norms=norms))
        print(f"{dtype}: {len(captures)} of {len(pairs)}", flush=True)
    return captures


def rhos(captures: list, norm: str, correlation) -> np.ndarray:
    """Correlate strength with entropy within each response."""
    return np.array([correlation(c[norm].mean(("layer", "projection")), c.entropy_bits).statistic for c in captures])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--responses", type=int, default=3)
    parser.add_argument("--length", type=int, default=96, help="tokens of each response")
    parser.add_argument("--norms", default=",".join(NORMS))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    norms = options.norms.split(",")
    rows = [json.loads(line) for line in options.traces.read_text().splitlines()[: options.responses]]
    pairs = [(row["prompt"], row["solution"]) for row in rows]
    found = {dtype: probe_all(options.model, dtype, pairs, options.length, norms) for dtype in DTYPES}
    exact = found["float32"]
    print("| norm | dtype | one gradient, median | one gradient, 99 % | strength S, largest |", end="")
    print("".join(f" {name} rho | moves by |" for name in CORRELATIONS))
    print("|---|---|---|---|---|" + "---|---|" * len(CORRELATIONS))
    for norm in norms:
        for dtype in DTYPES[1:]:
            change = np.concatenate(
                [abs(c[norm] / e[norm] - 1).values.ravel() for c, e in zip(found[dtype], exact, strict=True)]
            )
            mean = [c[norm].mean(("layer", "projection")) for c in found[dtype]]
            strength = max(
                float(abs(m / e[norm].mean(("layer", "projection")) - 1).max())
                for m, e in zip(mean, exact, strict=True)
            )
            line = f"| {norm} | {dtype} | {np.median(change):.2%} | {np.quantile(change, 0.99):.1%} | {strength:.1%} |"
            for correlation in CORRELATIONS.values():
                before, after = rhos(exact, norm, correlation), rhos(found[dtype], norm, correlation)
                line += f" {before.mean():+.3f} | {abs(after - before).max():.4f} |"
            print(line)
    for dtype in DTYPES[1:]:
        moved = max(float(abs(c.entropy_bits - e.entropy_bits).max()) for c, e in zip(found[dtype], exact, strict=True))
        print(f"entropy moves by at most {moved:.3f} bits in {dtype}")


if __name__ == "__main__":
    main()
