"""What a probe will take, before it is made."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from inversion.probes.capture import Site, attention_layers
from inversion.probes.collect import NormCollector
from inversion.probes.gradients import Targets, run_pass
from inversion.probes.linear import KEPT_BYTES, LinearMaps
from inversion.probes.memory import Widths, fitting
from inversion.probes.pace import HEAD_ELEMENTS, Pace


def spread_lengths(length: int, targets: int | None) -> list[int]:
    """Return how many positions each target sees if they are spread evenly, ascending."""
    count = min(targets or length, length)
    return [length - (count - 1 - i) * length // count for i in range(count)]


def estimate_memory(model: TransformerBridge, length: int, targets: int | None = None, *, pattern: bool = False) -> int:
    """Estimate the most bytes, beside the weights, that probing a sequence takes.

    Args:
        model: The bridge.
        length: Tokens of prompt and response.
        targets: Tokens whose gradients are measured, spread over the sequence; None for all.
        pattern: Whether attention forms the pattern, as docs/architectures.md lists for each kind of model.
    """
    widths, pace = Widths.of(model), Pace(model, pattern=pattern)
    lengths = spread_lengths(length, targets)
    wave = max(pace.waves(lengths), key=lambda wave: sum((b.stop - b.start) * lengths[b.stop - 1] for b in wave))
    on_the_way = sum((b.stop - b.start) * widths.stream(lengths[b.stop - 1]) for b in wave)
    at_once = 2 if pace.workers_for(len(wave), length) > 1 else 1
    chunk = pace.chunk_size(length, max(b.stop - b.start for b in wave))
    written = length * LinearMaps(model.original_model).bytes_per_row
    streams = (len(model.blocks) - attention_layers(model)[0] + 1) * widths.stream(length)
    single = widths.graph(length, pattern) + chunk * widths.backward(length, pattern)
    # Norms: what q, k, v and o read is factored in float32, and a few cores R Delta are held with their Gram matrices.
    rank = min(length, widths.model)
    norms = 4 * (3 * widths.model * length + 4 * rank * length) + 8 * min(chunk, 4) * 3 * rank * widths.model
    head = 3 * 4 * min(len(lengths) * widths.vocabulary, HEAD_ELEMENTS)
    walk = on_the_way + at_once * single + norms
    return streams + (written if written <= KEPT_BYTES else 0) + max(walk, head)


@dataclass(frozen=True)
class Speed:
    """Seconds that the parts of a probe took on this machine, on a sequence of ``length`` tokens and on half of it.

    length: Tokens of the longer one.
    once: The pass and the way through head and last block, (longer, half).
    record: Running one block again, (longer, half).
    target: Carrying one target through one block, norms included, (longer, half).
    blocks: Blocks between the head and the lowest chosen layer, the last one left out.
    """

    length: int
    once: tuple[float, float]
    record: tuple[float, float]
    target: tuple[float, float]
    blocks: int

    def seconds(self, pace: Pace, length: int, targets: int | None) -> float:
        """Predict the time of probing a sequence.

        Args:
            pace: How targets are grouped.
            length: Its tokens.
            targets: How many of them are measured, spread over the sequence; None for all.
        """
        lengths = spread_lengths(length, targets)
        through = sum(
            self._at(lengths[b.stop - 1], self.record) + (b.stop - b.start) * self._at(lengths[b.stop - 1], self.target)
            for b in pace.blocks(lengths)
        )
        return self._at(length, self.once) + self.blocks * through

    def _at(self, length: int, seconds: tuple[float, float]) -> float:
        """Read a cost off the power law through both measurements."""
        longer, half = seconds
        power = min(3.0, max(0.0, math.log2(longer / half)))
        return longer * (length / self.length) ** power


def measure_speed(
    model: TransformerBridge, length: int, norms: Sequence[str], layers: Sequence[int], projections: Sequence[str]
) -> Speed:
    """Time the parts of a probe, on random tokens, with the last few blocks only.

    Args:
        model: The bridge.
        length: Tokens of the longest sequence that is to be probed.
        norms: Which norms.
        layers: Chosen layers, ascending.
        projections: Chosen projections.
    """
    length = max(length, 16)
    measured = [_parts(model, n, norms, layers, projections) for n in (length, length // 2)]
    once, record, target = zip(*measured, strict=True)
    return Speed(length, once, record, target, len(model.blocks) - 1 - layers[0])


def _parts(
    model: TransformerBridge, length: int, norms: Sequence[str], layers: Sequence[int], projections: Sequence[str]
) -> tuple[float, float, float]:
    """Return the seconds of everything that is done once, of one block's record, and of one target in one block."""
    hf_model: Any = model.original_model
    generator = torch.Generator().manual_seed(0)
    vocabulary = hf_model.get_input_embeddings().num_embeddings
    tokens = torch.randint(0, vocabulary, (1, length + 1), generator=generator).to(next(hf_model.parameters()).device)
    last = len(model.blocks) - 1
    probed = attention_layers(model)
    below = [layer for layer in probed if last - 2 <= layer < last]

    def seconds(chosen: Sequence[int], count: int) -> float:
        sites = [Site(layer, name) for layer in chosen for name in projections]
        positions = torch.arange(length - count, length, device=tokens.device)
        best = math.inf
        for _ in range(2):
            start = time.perf_counter()
            with fitting(length), run_pass(model, tokens[:, :-1], sites) as single:
                collector = NormCollector(norms, sites, positions.tolist())
                single.gradients(Targets(positions, tokens[0, positions + 1])).run(collector, Pace(model))
            best = min(best, time.perf_counter() - start)
        return best

    tiny = 1e-6
    if not below:
        one, few = seconds(probed[-1:], 1), seconds(probed[-1:], 4)
        return one, tiny, max(tiny, (few - one) / 3)
    top = seconds([layer for layer in probed if layer == last] or below[-1:], 1)
    one, few = seconds([*below, *probed[-1:]], 1), seconds([*below, *probed[-1:]], 4)
    target = max(tiny, (few - one) / 3 / (last - below[0]))
    return top, max(tiny, (one - top) / (last - below[0]) - target), target


def estimate_bytes_per_token(norms: Sequence[str], layers: Sequence[int], projections: Sequence[str]) -> int:
    """Estimate what a token takes on disk: norms in float32, the lens in float64, and about 60 bytes beside them."""
    return 4 * len(norms) * len(layers) * len(projections) + 8 * len(layers) + 60
