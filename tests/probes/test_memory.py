import numpy as np
import pytest
import torch
from peak import peak_bytes
from tiny import tiny_model, token_ids

import inversion
from inversion.bench import Shape, random_model
from inversion.probes.estimate import estimate_memory
from inversion.probes.memory import Widths, free_bytes
from inversion.probes.pace import Pace, head_rows

MEGABYTE = 2**20


def test_half_precision_takes_half():
    full, half = (
        Widths.of(inversion.load_model(tiny_model("llama", dtype=d))) for d in (torch.float32, torch.bfloat16)
    )
    assert full.graph(64) == 2 * half.graph(64)
    assert full.stream(64) == 64 * 32 * 4


def test_only_the_pattern_grows_faster_than_the_length():
    widths = Widths.of(inversion.load_model(tiny_model("llama")))
    assert widths.graph(1000) == 10 * widths.graph(100)
    assert widths.graph(1000, pattern=True) > 50 * widths.graph(100, pattern=True)


@pytest.fixture
def pace():
    return Pace(inversion.load_model(tiny_model("llama")))


def groupings(count):
    """All ways to cut ``count`` targets into blocks, the last ones first."""
    if count == 0:
        yield []
    for start in range(count):
        for others in groupings(start):
            yield [slice(start, count), *others]


@pytest.mark.parametrize(
    "lengths", [[5], [9, 900], list(range(3, 15)), [100, 101, 102, 500, 501, 1000], [64] * 9, [40, 45, 300, 310, 980]]
)
def test_blocks_are_the_cheapest_of_all_groupings(lengths, pace, monkeypatch):
    monkeypatch.setattr("inversion.probes.pace.CALL_OPERATIONS", 1e6)

    free = free_bytes(pace.device)

    def cost(blocks):
        return sum(pace._cost(np.array([b.stop - b.start]), lengths[b.stop - 1], free).item() for b in blocks)

    found = pace.blocks(lengths)
    assert found in list(groupings(len(lengths)))
    assert cost(found) == pytest.approx(min(map(cost, groupings(len(lengths)))))


def test_targets_share_a_prefix_where_they_waste_less_than_a_pass_costs(pace):
    assert pace.blocks([9, 90_000]) == [slice(1, 2), slice(0, 1)]
    assert pace.blocks([9, 10]) == [slice(0, 2)]
    assert [block.start for block in pace.blocks([64] * 9)] == [0]


def test_blocks_fill_panels_where_a_remainder_is_slow(monkeypatch):
    monkeypatch.setattr("inversion.probes.pace.prefers_onednn", lambda: True)
    wide = Shape("wide", 1, 896, 14, 2, 4864, 32)
    blocks = Pace(inversion.load_model(random_model(wide))).blocks(range(1, 33))
    assert [(block.stop - block.start) * block.stop for block in blocks] == [8 * 32, 8 * 24, 8 * 16, 8 * 8]


def test_a_wave_keeps_to_its_bytes(pace, monkeypatch):
    monkeypatch.setattr("inversion.probes.pace.WAVE_BYTES", 100_000)
    lengths = list(range(20, 60))
    waves = pace.waves(lengths)
    assert sorted(i for wave in waves for block in wave for i in range(block.start, block.stop)) == list(range(40))
    sizes = [sum((b.stop - b.start) * lengths[b.stop - 1] * 32 * 4 for b in wave) for wave in waves]
    assert max(sizes) <= 100_000
    assert len(waves) > 1


def test_chunks_fit_into_what_is_free(pace, monkeypatch):
    for room, expected in ((1e12, 4), (pace.widths.backward(64) * 2 * 4 * 3.5, 3), (1, 1)):
        monkeypatch.setattr("inversion.probes.pace.free_bytes", lambda device, room=room: room)
        assert pace.chunk_size(64, 4) == expected


def test_few_rows_of_a_large_vocabulary_are_held_at_a_time():
    assert head_rows(300, 2**17) == [slice(0, 128), slice(128, 256), slice(256, 300)]
    assert head_rows(2, 2**30) == [slice(0, 1), slice(1, 2)]


def peak(layers, length, targets):
    bridge = inversion.load_model(random_model(Shape("some", layers, 128, 4, 2, 512, length)))
    tokens = token_ids(length + 1, vocabulary=250)
    inversion.probe(bridge, tokens[:1], tokens[1:9])
    found = peak_bytes(lambda: inversion.probe(bridge, tokens[:1], tokens[1:], norms=("nuclear",), targets=targets))
    return found, estimate_memory(bridge, length + 1, targets)


def test_memory_does_not_grow_with_depth_but_for_the_stream():
    (shallow, _), (deep, _) = peak(2, 2048, 1), peak(10, 2048, 1)
    stream = 2048 * 128 * 4
    assert deep - shallow < 8 * stream + MEGABYTE
    # One block's graph alone is larger than what eight more layers add.
    assert deep < 1.5 * shallow


@pytest.mark.parametrize(("layers", "length", "targets"), [(6, 512, 4), (2, 2048, 2), (4, 192, None)])
def test_memory_is_what_was_estimated(layers, length, targets):
    found, estimated = peak(layers, length, targets)
    assert found / 1.5 < estimated < 1.5 * found


def test_of_all_tokens_no_more_than_a_wave_is_held(monkeypatch):
    monkeypatch.setattr("inversion.probes.pace.WAVE_BYTES", 2**20)
    found, estimated = peak(2, 400, None)
    assert found / 1.5 < estimated < 1.5 * found
