import pytest
import torch
from peak import peak_bytes
from tiny import tiny_model, token_ids

import inversion
from inversion.bench import Shape, random_model
from inversion.probes.estimate import estimate_memory
from inversion.probes.memory import Widths
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


def test_blocks_cover_all_targets_and_waste_at_most_what_a_pass_costs(pace):
    for lengths in ([5], [9, 900], list(range(3, 400)), [100, 101, 102, 500, 501, 1000]):
        blocks = pace.blocks(lengths)
        assert [i for block in reversed(blocks) for i in range(block.start, block.stop)] == list(range(len(lengths)))
        for block in blocks:
            longest = lengths[block.stop - 1]
            assert sum(longest - n for n in lengths[block]) <= 96 + longest / 2
    assert pace.blocks([9, 900]) == [slice(1, 2), slice(0, 1)]
    # 26 * 27 / 2 = 351 positions for nothing are fewer than 96 + 512 / 2, and one target more would be too many.
    assert pace.blocks(list(range(1, 513)))[0] == slice(485, 512)


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
