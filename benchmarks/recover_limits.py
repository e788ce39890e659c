"""Measure where recovering texts from a gradient breaks: batch size, length, dtype, noise.

    python benchmarks/recover_limits.py size      # batch size and length, by model
    python benchmarks/recover_limits.py noise     # gradient noise
    python benchmarks/recover_limits.py dtype     # float64, float32, bfloat16
    python benchmarks/recover_limits.py rounding  # predicted against measured distances to the span
    python benchmarks/recover_limits.py real      # SmolLM2-135M-Instruct (extra real), on sentences of the docs

Prints Markdown tables for docs/recover.md. Models with random weights are drawn at width 128; the shipped ones read
held-out demo problems with the answers that ``slow`` would learn from. A point is the mean over batches.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig
from transformers.utils.logging import disable_progress_bar

import inversion
from inversion.demo.tasks import distinct_problems
from inversion.recover import Share, recover, row_span, share_recovered, text_gradient
from inversion.recover.gradient import add_noise
from inversion.recover.search import layer_inputs
from inversion.recover.span import SAFETY

WIDTH, VOCABULARY = 128, 2000
MODELS = ("GPT-2, random", "Llama, random", "fast", "slow")


def load(name: str, dtype: str):
    if not name.endswith("random"):
        return inversion.load_model(name, dtype=dtype)
    common = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1}
    config = (
        GPT2Config(n_embd=WIDTH, n_layer=2, n_head=4, n_positions=256, **common)
        if name.startswith("GPT-2")
        else LlamaConfig(
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            **common,
        )
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return inversion.load_model(AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)))


def texts(model, name: str, batch: int, length: int, seed: int) -> list[list[int]]:
    """Random tokens for random models, sentences of the demo's tasks for the shipped ones, cut to a length."""
    if name.endswith("random"):
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(2, VOCABULARY, (batch, length), generator=generator).tolist()
    if name == "smollm2":
        lines = (Path(__file__).parents[1] / "docs" / "definitions.md").read_text(encoding="utf-8").splitlines()
        ids = [model.tokenizer(line).input_ids for line in lines if line[:1].isalpha()]
        long = [row[:length] for row in ids if len(row) >= length]
        return [long[(seed * batch + i) % len(long)] for i in range(batch)]
    problems = distinct_problems("spell_backward", "held_out", batch, seed)
    found = []
    for i, problem in enumerate(problems):
        word = problem.prompt.rsplit(" ", 1)[1]
        text = problem.prompt + "".join(f"\nSo take {word[j]} leaving {word[:j]}" for j in range(len(word) - 1, 0, -1))
        other = distinct_problems("chain_sum", "held_out", batch, seed)[i]
        ids = model.tokenizer(text if i % 2 else other.prompt + " " + text).input_ids
        found.append(ids[:length])
    return found


def mean_share(model, name: str, batch: int, length: int, repeats: int, noise: float = 0.0) -> tuple[Share, str]:
    shares, ranks = [], []
    for seed in range(repeats):
        batch_texts = texts(model, name, batch, length, seed)
        recovery = recover(model, add_noise(text_gradient(model, batch_texts), noise, seed), longest=length + 8)
        shares.append(share_recovered(recovery, batch_texts))
        ranks.append(recovery.ranks[1])
    values = [statistics.mean(getattr(share, field) for share in shares) for field in Share.__dataclass_fields__]
    return Share(*values), f"{statistics.mean(ranks):.0f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def show(share: Share, rank: str) -> list[str]:
    return [rank, f"{share.tokens:.0%}", f"{share.false_tokens:.0f}", f"{share.in_place:.0%}", f"{share.sequences:.0%}"]


HEAD = ("rank", "tokens", "false tokens", "in place", "whole texts")


def size(repeats: int) -> None:
    rows = []
    for name in MODELS:
        model = load(name, "float32")
        for batch, length in ((1, 16), (1, 48), (4, 16), (8, 16), (12, 16), (16, 8), (32, 8)):
            rows.append([name, str(batch), str(length), *show(*mean_share(model, name, batch, length, repeats))])
    table(("model", "batch", "length", *HEAD), rows)


def noise(repeats: int) -> None:
    rows = []
    for name in MODELS:
        model = load(name, "float32")
        for level in (0.0, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0):
            rows.append([name, f"{level:g}", *show(*mean_share(model, name, 2, 16, repeats, level))])
    table(("model", "noise", *HEAD), rows)


def dtypes(repeats: int) -> None:
    rows = []
    for name in MODELS:
        for dtype in ("float64", "float32", "bfloat16"):
            model = load(name, dtype)
            for batch in (1, 4):
                rows.append([name, dtype, str(batch), *show(*mean_share(model, name, batch, 16, repeats))])
    table(("model", "dtype", "batch", *HEAD), rows)


def real(repeats: int) -> None:
    rows = []
    for dtype in ("float32", "bfloat16"):
        model = load("smollm2", dtype)
        for batch, length, level in ((1, 16, 0.0), (4, 16, 0.0), (8, 16, 0.0), (1, 16, 1e-2), (1, 16, 1e-1)):
            share = mean_share(model, "smollm2", batch, length, repeats, level)
            rows.append([dtype, str(batch), str(length), f"{level:g}", *show(*share)])
            print(*rows[-1], file=sys.stderr, flush=True)
    table(("dtype", "batch", "length", "noise", *HEAD), rows)


def rounding(repeats: int) -> None:
    """Distances of what layers 0 and 1 really read, over what was predicted for them, and of every other token."""
    rows = []
    for name in MODELS:
        for dtype in ("float64", "float32", "bfloat16"):
            model = load(name, dtype)
            for batch in (1, 4):
                own, others, size = [], [], []
                for seed in range(repeats):
                    ids = texts(model, name, batch, 16, seed)
                    gradient = text_gradient(model, ids)
                    span = row_span(gradient.layer(1), gradient.dtype, layer=1)
                    read = torch.cat([layer_inputs(model, torch.tensor([row[:-1]]), 1)[0] for row in ids])
                    shuffled = [
                        row[torch.randperm(len(row), generator=torch.Generator().manual_seed(seed))].tolist()
                        for row in torch.tensor(ids)
                    ]
                    wrong = torch.cat([layer_inputs(model, torch.tensor([row[:-1]]), 1)[0][2:] for row in shuffled])
                    own.append(span.distances(read) * SAFETY)
                    others.append(span.distances(wrong) * SAFETY)
                    unit = torch.nn.functional.normalize(read.double(), dim=1)
                    size.append((unit - unit @ span.basis @ span.basis.T).norm(dim=1))
                own, others, size = torch.cat(own), torch.cat(others), torch.cat(size)
                ratios = [f"{size.median():.0e}", f"{own.median():.2f}", f"{own.amax():.2f}"]
                inside = f"{(own < SAFETY).double().mean():.0%}"
                wrong_ratios = [f"{others.median():.0f}", f"{others.amin():.1f}"]
                rows.append([name, dtype, str(batch), *ratios, inside, *wrong_ratios])
    head = ("model", "dtype", "batch", "median distance", "over predicted: median", "largest", "within 3")
    table((*head, "shuffled texts: median", "smallest"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("size", "noise", "dtype", "rounding", "real"))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    {"size": size, "noise": noise, "dtype": dtypes, "rounding": rounding, "real": real}[options.what](options.repeats)


if __name__ == "__main__":
    main()
