"""What a probe will take, before it is made."""

from transformer_lens.model_bridge import TransformerBridge

from inversion.probes.capture import attention_layers
from inversion.probes.linear import KEPT_BYTES, LinearMaps
from inversion.probes.memory import Widths
from inversion.probes.pace import HEAD_ELEMENTS, Pace


def estimate_memory(model: TransformerBridge, length: int, targets: int | None = None, *, pattern: bool = False) -> int:
    """Estimate the most bytes, beside the weights, that probing a sequence takes.

    Args:
        model: The bridge.
        length: Tokens of prompt and response.
        targets: Tokens whose gradients are measured, spread over the sequence; None for all.
        pattern: Whether attention forms the pattern, as docs/architectures.md lists for each kind of model.
    """
    widths, pace = Widths.of(model), Pace(model, pattern=pattern)
    count = min(targets or length, length)
    lengths = [length - (count - 1 - i) * length // count for i in range(count)]
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
    head = 3 * 4 * min(count * widths.vocabulary, HEAD_ELEMENTS)
    walk = on_the_way + at_once * single + norms
    return streams + (written if written <= KEPT_BYTES else 0) + max(walk, head)
