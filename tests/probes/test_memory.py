import subprocess
import sys

import pytest
import torch
from tiny import tiny_model

import inversion
from inversion.probes.memory import block_size, chunk_size, estimate_memory


def test_estimates_grow_with_the_length_and_more_than_linearly_through_attention():
    bridge = inversion.load_model(tiny_model("llama"))
    short, long = estimate_memory(bridge, 100), estimate_memory(bridge, 1000)
    assert 10 * short.per_target < long.per_target < 100 * short.per_target
    assert long.activations == pytest.approx(2 * 3 * long.per_target)


def test_half_precision_takes_half():
    full, half = (inversion.load_model(tiny_model("llama", dtype=d)) for d in (torch.float32, torch.bfloat16))
    assert estimate_memory(full, 64).per_target == 2 * estimate_memory(half, 64).per_target


def test_blocks_grow_with_the_square_root_and_chunks_fit_into_what_is_free(monkeypatch):
    assert [block_size(count, torch.device("cpu")) for count in (1, 128, 2048)] == [4, 16, 64]
    bridge = inversion.load_model(tiny_model("llama"))
    per_target = estimate_memory(bridge, 64).per_target
    for room, expected in ((1e12, 32), (per_target * 4 * 5.5, 5), (1, 1)):
        monkeypatch.setattr("inversion.probes.memory.free_bytes", lambda device, room=room: room)
        assert chunk_size(bridge, 64, 32) == min(expected, 32)


PEAK = """
import resource, torch, inversion
from inversion.demo import MODELS
from inversion.probes.memory import estimate_memory
torch.set_num_threads(THREADS)
model = inversion.load_model("slow")
tokens = torch.randint(5, 30, (LENGTH,), generator=torch.Generator().manual_seed(0)).tolist()
inversion.probe(model, tokens[:1], tokens[1:9])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
capture = inversion.probe(model, tokens[:1], tokens[1:], targets=3)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert capture.nuclear.notnull().all() and capture.position.max() > LENGTH / 2
memory = estimate_memory(model, LENGTH)
print((after - before) * 1024, memory.activations, memory.per_target)
"""


@pytest.mark.parametrize(("length", "threads"), [(1024, 1), (1024, 2), (4096, 1)])
def test_long_responses_stay_within_twice_the_activations_and_one_chunk(length, threads):
    script = PEAK.replace("LENGTH", str(length)).replace("THREADS", str(threads))
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    peak, activations, per_target = map(int, printed.split())
    assert peak <= 2 * activations + 2 * per_target
