"""Write a simulated run of the size of a cluster's work; time ``inversion stats`` and ``inversion report`` on it.

    python benchmarks/statistics_size.py --folder /tmp/size                      # 10 million tokens, 5 GB of disk
    python benchmarks/statistics_size.py --folder /tmp/size --tokens 1_000_000 --responses 1_000

10,000 responses to 5,000 prompts, 10 million tokens, 28 layers x 4 projections of one norm in float32, in shards as
``inversion probe`` writes them. Strength falls with entropy inside responses and not between them. The folder is
removed at the end unless ``--keep`` is given; one that is there is used as it is.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from inversion.runs import RESPONSE_SCHEMA, Piece, RunWriter

LAYERS, PROJECTIONS, SHARD, VOCABULARY = 28, ("q", "k", "v", "o"), 16, 50_000


def manifest(responses: int) -> dict:
    """The manifest of a run of the simulated size."""
    sampling = {"source": "simulated", "count": responses, "seed": 0, "temperature": 1.0}
    measurement = {"norms": ["nuclear"], "layers": list(range(LAYERS)), "projections": list(PROJECTIONS)}
    return {
        "model": {"model": "simulated", "dtype": "float32"},
        "measurement": {**measurement, "quantity": "logit", "targets": None},
        "responses": sampling,
        "versions": {},
    }


def response(number: int, length: int, rng: np.random.Generator) -> Piece:
    """One response: its row, and its tokens."""
    level = rng.normal(size=2)
    entropy = rng.normal(size=length) + level[0]
    sites = rng.standard_normal((length, LAYERS * len(PROJECTIONS)), dtype=np.float32)
    sites += (level[1] - 0.4 * (entropy - level[0]))[:, None].astype(np.float32)
    tokens = np.minimum(rng.zipf(1.3, length), VOCABULARY) - 1
    bits = np.exp(entropy)
    score = float(number % 2)
    columns = {
        "response": np.full(length, number, np.int32),
        "token_id": tokens.astype(np.int32),
        "token_text": [f"t{token}" for token in tokens.tolist()],
        "position": np.arange(length, dtype=np.int32),
        "part": ["think"] * (length // 2) + ["answer"] * (length - length // 2),
        "weight": np.ones(length),
        "score": np.full(length, score),
        "entropy_bits": bits,
        "surprisal_bits": bits * rng.exponential(size=length),
        "logit_space": np.tanh(bits),
    }
    flat = {"layer_entropy_bits": np.zeros(length * LAYERS), "nuclear": np.exp(0.3 * sites).ravel()}
    lists = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(values), values.size // length)
        for name, values in flat.items()
    }
    row = dict.fromkeys(RESPONSE_SCHEMA.names) | {"response": number, "prompt_id": f"{number // 2:012x}", "text": ""}
    row |= {"score": score, "finished": True, "n_tokens": length, "prompt": "", "prompt_token_ids": []}
    return Piece(row, pa.table({**columns, **lists}))


def write(folder: Path, tokens: int, responses: int) -> None:
    """Write the run."""
    rng = np.random.default_rng(0)
    shares = rng.lognormal(0, 0.8, responses)
    lengths = np.maximum(3, shares / shares.sum() * tokens).astype(int)
    lengths[0] += tokens - lengths.sum()
    writer = RunWriter(folder, manifest(responses))
    for shard, first in enumerate(range(0, responses, SHARD)):
        numbers = range(first, min(first + SHARD, responses))
        writer.write_pieces(shard, [response(number, int(lengths[number]), rng) for number in numbers])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--responses", type=int, default=10_000)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    start = time.perf_counter()
    if not options.folder.exists():
        write(options.folder, options.tokens, options.responses)
        print(f"written in {time.perf_counter() - start:.0f} s", flush=True)
    size = sum(path.stat().st_size for path in options.folder.iterdir())
    print(f"{options.tokens:,} tokens in {options.responses:,} responses, {size / 2**30:.1f} GiB on disk", flush=True)
    page = options.folder.with_suffix(".html")
    used = [run("stats", str(options.folder)), run("report", str(options.folder), "--out", str(page))]
    print(*used, sep="\n")
    page.unlink()
    if not options.keep:
        shutil.rmtree(options.folder)


def run(*command: str) -> str:
    """Run a command of the toolkit; say what it took."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "inversion", *command])
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"inversion {command[0]} failed")
    seconds, processor = time.perf_counter() - start, used.ru_utime + used.ru_stime
    return (
        f"inversion {command[0]}: {seconds:.0f} s on {os.cpu_count()} cores, {processor:.0f} s of processor time, "
        f"peak memory {used.ru_maxrss / 2**20:.2f} GiB"
    )


if __name__ == "__main__":
    main()
