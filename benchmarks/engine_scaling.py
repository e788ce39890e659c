"""How much faster two replicas on Ray measure than one, with one thread each, and what a replica costs to start.

    python benchmarks/engine_scaling.py

Times are those of the loop over shards, after every replica has loaded its model and measured a response; the ratio is
taken within one run, on the same responses, in alternation. A random model stands for a real one of its shape.
"""

import argparse
import functools
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from inversion.engine import Watch, Workers, open_pool, run_shards
from inversion.engine.loop import shards_of
from inversion.measure import Measurement, make_plan
from inversion.models import load_model
from inversion.preparation import Preparation
from inversion.responses import Generation, Problem
from inversion.runs import RunWriter


def save_model(folder: Path, width: int, layers: int) -> None:
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        vocab_size=512,
        max_position_embeddings=1024,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)


def problems(count: int, tokens: int) -> list[Problem]:
    """Responses as token ids, of lengths between half and one and a half times ``tokens``."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        length = int(torch.randint(tokens // 2, 3 * tokens // 2, (1,), generator=generator))
        ids = torch.randint(3, 512, (length + 8,), generator=generator).tolist()
        made.append(Problem("", prompt_token_ids=tuple(ids[:8]), response_token_ids=tuple(ids[8:])))
    return made


def seconds(load: functools.partial, workers: Workers, given: list[Problem], shard: int) -> tuple[float, float]:
    """Return the seconds until all replicas are ready, and those of the loop."""
    begin = time.perf_counter()
    with open_pool(load, workers) as pool, tempfile.TemporaryDirectory() as folder:
        make = functools.partial(
            make_plan, given, "random tokens", Path(folder), Measurement(), Generation(), Preparation(), 0, 16, shard
        )
        plan = pool.call(make)
        warm = pool.share(plan)
        pool.wait_for_all()
        for number in range(pool.size):
            pool.submit(number, warm, "measure", [number], {})
        for _ in range(pool.size):
            assert pool.next().error is None
        ready = time.perf_counter() - begin
        writer, shards = RunWriter(Path(folder) / "run", plan.manifest), shards_of(plan)
        begin = time.perf_counter()
        with Watch("run", len(given), 0, len(shards), "json") as watch:
            watch._tell = lambda *_, **__: None
            run_shards(plan, writer, pool, shards, watch)
        return ready, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--responses", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    disable_progress_bar()
    texts = problems(given.responses, given.tokens)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), given.width, given.layers)
        load = functools.partial(load_model, folder)
        rows = []
        for _ in range(given.repeats):
            rows.append([seconds(load, Workers(n, threads=1, gpus=0), texts, 8) for n in (1, given.workers)])
    for name, place in (("start", 0), ("loop", 1)):
        one, many = (statistics.median(row[k][place] for row in rows) for k in (0, 1))
        print(f"{name}: one replica {one:.1f} s, {given.workers} replicas {many:.1f} s, ratio {one / many:.2f}")


if __name__ == "__main__":
    main()
