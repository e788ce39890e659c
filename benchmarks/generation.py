"""What generation gains from running beside the bridge, and whether a response depends on its batch.

python benchmarks/generation.py
"""

import time

import torch

import inversion
from inversion.models import prompt_ids
from inversion.responses import Generation, write_responses
from inversion.shipped import load_problems

GENERATION = Generation(1.0, 200)
SIZES = (1, 16, 64)


def write(model, prompts, batch_size):
    start = time.perf_counter()
    written = write_responses(model, prompts, GENERATION, seed=0, batch_size=batch_size)
    return written, time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    for dtype in ("float32", "bfloat16"):
        model = inversion.load_model("slow", dtype=dtype)
        prompts = [prompt_ids(model.tokenizer, problem["prompt"]) for problem in load_problems()]
        by_size = {size: write(model, prompts, size)[0] for size in SIZES}
        for size in SIZES[1:]:
            changed = sum(a.ids != b.ids for a, b in zip(by_size[1], by_size[size], strict=True))
            print(f"{dtype}: {changed} of {len(prompts)} responses differ between batches of 1 and of {size}")
    model = inversion.load_model("slow")
    plain = [write(model, prompts, 16)[1] for _ in range(3)]
    # A hook that does nothing makes generation go through the bridge, which knows eager attention only.
    with model.hooks(fwd_hooks=[("blocks.0.hook_out", lambda value, hook: None)]):
        bridged = [write(model, prompts, 16)[1] for _ in range(3)]
    print(f"the bridge takes {min(bridged) / min(plain):.1f} times as long")


if __name__ == "__main__":
    main()
