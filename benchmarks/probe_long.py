"""Probe long responses at the widths of real models: time, peak memory beside the weights, and its estimate.

    python benchmarks/probe_long.py                       # the table of docs/scaling.md
    python benchmarks/probe_long.py --cases "0.5B 6 2048 4; 0.5B 24 2048 4"
    python benchmarks/probe_long.py --cases "0.5B 24 2048 4" --threads 2      # on idle cores

A case is a width (0.5B, 7B or 4x512), layers, tokens of the response and drawn tokens (or all). Each runs in a process
of its own, so that its peak is its own. Seconds on one thread are those of the processor: they hardly depend on what
else the machine does. On several they are those of the clock, and the cores should be idle. With PYTHONPATH at another
version of the project, that one is measured.
"""

import argparse
import multiprocessing
import resource
import time
import warnings

WIDTHS = {"0.5B": (896, 14, 2, 4864), "7B": (3584, 28, 4, 18944), "4x512": (512, 8, 8, 1408)}
CASES = "0.5B 6 2048 4; 0.5B 24 2048 4; 0.5B 24 4096 4; 0.5B 6 512 all; 7B 2 4096 2"


def measure(case: str, threads: int) -> str:
    """Probe one case and return its row."""
    import torch

    import inversion
    from inversion.bench import Shape, random_model

    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    width, layers, length, drawn = case.split()
    targets = None if drawn == "all" else int(drawn)
    shape = Shape(width, int(layers), *WIDTHS[width], int(length))
    bridge = inversion.load_model(random_model(shape))
    tokens = torch.randint(2, 256, (shape.tokens + 1,), generator=torch.Generator().manual_seed(0)).tolist()
    # The first probe finds the plan for the model.
    inversion.probe(bridge, tokens[:1], tokens[1:9], norms=("nuclear",))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = clock()
    inversion.probe(bridge, tokens[:1], tokens[1:], norms=("nuclear",), targets=targets)
    seconds = clock() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    try:
        from inversion.probes.estimate import estimate_memory

        estimate = f"{estimate_memory(bridge, len(tokens), targets) / 1e9:.2f}"
    except ImportError:
        estimate = "-"
    return f"| {width} | {layers} | {length} | {drawn} | {seconds:.1f} | {peak / 1e9:.2f} | {estimate} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    kind = "seconds of one core" if options.threads == 1 else f"seconds on {options.threads} cores"
    print(f"| width | layers | tokens | measured | {kind} | memory beside the weights, GB | estimate, GB |")
    print("|---|---|---|---|---|---|---|")
    for case in options.cases.split(";"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(measure, (case.strip(), options.threads)), flush=True)


if __name__ == "__main__":
    main()
