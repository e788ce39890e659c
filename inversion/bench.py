"""Time the probe against the plain loop and against the fewest operations the exact answer needs.

All figures of a row come from one run on one machine; only ratios mean anything elsewhere. The limit is derived in
docs/numerics.md. It is a number of operations over a rate, and there are two rates: that of ``torch.matmul``, and that
of the product that the probe uses, which on some processors is faster.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from inversion.models import load_model, processor_of
from inversion.probes import probe
from inversion.probes.capture import PROJECTIONS, Site, attention_layers, frozen
from inversion.probes.gradients import Delta, Targets, run_pass
from inversion.probes.linear import product
from inversion.probes.norms import NUCLEAR
from inversion.probes.pace import Pace
from inversion.tables import markdown_table


@dataclass(frozen=True)
class Shape:
    """A Llama-like model with random weights, and the number of tokens of the sequence."""

    name: str
    layers: int
    width: int
    heads: int
    key_value_heads: int
    feed_forward: int
    tokens: int

    @property
    def weights(self) -> dict[str, int]:
        """Weights of one block, by matrix; ``mlp`` stands for all three of its matrices."""
        key_value = self.width * self.key_value_heads // self.heads
        square = self.width * self.width
        mlp = 3 * self.width * self.feed_forward
        return {"q": square, "k": self.width * key_value, "v": self.width * key_value, "o": square, "mlp": mlp}


SHAPES = (
    Shape("demo", 4, 128, 4, 2, 512, 128),
    Shape("4 x 512", 4, 512, 8, 8, 1408, 128),
    Shape("Qwen2.5-0.5B short", 24, 896, 14, 2, 4864, 32),
    Shape("Qwen2.5-0.5B long", 24, 896, 14, 2, 4864, 128),
    Shape("one Llama-8B layer", 1, 4096, 32, 8, 14336, 64),
)


SEVEN_B = (28, 3584, 28, 4, 18944)
GPU_SHAPES = (
    (Shape("Qwen2.5-7B, all tokens", *SEVEN_B, 512), None),
    (Shape("Qwen2.5-7B, long", *SEVEN_B, 4096), 64),
)
"""Shapes to probe on a GPU, and how many tokens are drawn."""
NORM_WIDTHS = (896, 3584)
"""Sizes of square matrices whose singular values are timed there."""


@dataclass(frozen=True)
class Timing:
    """Seconds a token of both ways, and what they are to each other and to the limit.

    operations: The fewest a token. matmul_rate, product_rate: operations a second of ``torch.matmul`` and of the
    probe's product. norms: Share of the probe's time spent on norms.
    """

    shape: str
    tokens: int
    plain_seconds: float
    probe_seconds: float
    operations: float
    matmul_rate: float
    product_rate: float
    norms: float

    @property
    def gain(self) -> float:
        """How many times faster than the plain loop."""
        return self.plain_seconds / self.probe_seconds

    @property
    def share(self) -> float:
        """The limit at the rate of ``torch.matmul`` over the probe's time; above 1 if its own product is faster."""
        return self.operations / self.matmul_rate / self.probe_seconds

    @property
    def strict_share(self) -> float:
        """The limit at the faster of the two rates over the probe's time, 1 at the limit."""
        return self.operations / max(self.matmul_rate, self.product_rate) / self.probe_seconds


def random_model(shape: Shape, device: str = "cpu", vocabulary: int = 256, dtype: torch.dtype = torch.float32) -> Any:
    """Draw a Hugging Face model of the shape."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=dtype).to(device).eval()


def gradient_operations(shape: Shape) -> float:
    """Fewest floating-point operations (a multiply and an add are two) for all tokens' Delta at all sites.

    One forward pass over T positions, and for the target that sees c positions a backward pass: in the last block its
    own position through feed-forward, o and q, and c positions through k and v; in blocks between c positions through
    everything; in the first block c positions through feed-forward and o. Attention adds four products of c x c / 2
    by the width in the blocks below the last.
    """
    w, length = shape.weights, shape.tokens
    total = 2.0 * length * shape.layers * sum(w.values())
    for c in range(1, length + 1):
        attention = 4.0 * c * c * shape.width
        total += 2 * (w["mlp"] + w["o"])
        if shape.layers > 1:
            total += 2 * w["q"] + 2 * c * (w["k"] + w["v"])
            total += 2 * c * (w["mlp"] + w["o"]) + attention
            total += (shape.layers - 2) * (2 * c * sum(w.values()) + attention)
    return total


def norm_operations(shape: Shape) -> float:
    """Operations for the nuclear norms from the factors.

    For each target and site R Delta with triangular R, half of the smaller Gram matrix and its reduction to
    tridiagonal form; the rank-one sites of the last layer are free.
    """
    key_value = shape.width * shape.key_value_heads // shape.heads
    outputs = {"q": shape.width, "k": key_value, "v": key_value, "o": shape.width}
    total = 0.0
    for c in range(1, shape.tokens + 1):
        for name, width in outputs.items():
            sites = shape.layers - (name in "qo")
            small, large = sorted((min(c, shape.width), width))
            total += sites * (c * min(c, shape.width) * width + small * small * large + 4 / 3 * small**3)
    return total


def rate(
    multiply: Callable[[Tensor, Tensor], Tensor],
    device: str = "cpu",
    size: int = 2048,
    repeats: int = 5,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Measure floating-point operations per second of a large matrix product: the best of several.

    Args:
        multiply: Takes two square matrices.
        device: Where.
        size: Rows and columns.
        repeats: How many are timed.
        dtype: Of the matrices.
    """
    matrix = torch.randn(size, size, device=device).to(dtype)
    multiply(matrix, matrix)
    seconds = min(_seconds(lambda: multiply(matrix, matrix), device) for _ in range(repeats))
    return 2 * size**3 / seconds


def plain_loop(model: Any, tokens: list[int], prompt: int, targets: list[int]) -> list[dict[tuple[int, str], float]]:
    """Nuclear norms the way a script would: one forward pass, then a backward pass and SVDs for each token.

    Only the attention projections require gradients, and the forward pass is shared by all tokens.

    Args:
        model: A Hugging Face model of the Llama family.
        tokens: Prompt and response.
        prompt: Length of the prompt.
        targets: Indices into the response.
    """
    weights = {
        (layer, name): getattr(block.self_attn, f"{name}_proj").weight
        for layer, block in enumerate(model.model.layers)
        for name in PROJECTIONS
    }
    device = next(model.parameters()).device
    found = []
    with frozen(model):
        for weight in weights.values():
            weight.requires_grad_(True)
        logits = model(input_ids=torch.tensor([tokens[:-1]], device=device), use_cache=False).logits[0]
        for target in targets:
            scalar = logits[prompt - 1 + target, tokens[prompt + target]]
            gradients = torch.autograd.grad(scalar, list(weights.values()), retain_graph=True)
            norms = [torch.linalg.svdvals(gradient).sum().item() for gradient in gradients]
            found.append(dict(zip(weights, norms, strict=True)))
    return found


def time_shape(shape: Shape, device: str = "cpu", sample: int = 4, repeats: int = 3) -> Timing:
    """Time one shape: the plain loop on ``sample`` tokens spread over the sequence, the probe on all of them.

    The two must agree. The loop's cost a token hardly depends on the token, since it always goes back through the whole
    sequence.
    """
    model = random_model(shape, device)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, 256, (shape.tokens + 1,), generator=generator).tolist()
    targets = [shape.tokens - 1 - i * shape.tokens // sample for i in reversed(range(sample))]
    bridge = load_model(model)
    # The first probe warms up: it finds the plan for the model.
    found = probe(bridge, tokens[:1], tokens[1:], norms=("nuclear",), targets=targets)
    start = _now(device)
    expected = plain_loop(model, tokens, 1, targets)
    plain = (_now(device) - start) / sample
    _check(found, expected)
    whole, without, rates = [], [], []
    for _ in range(repeats):
        rates.append((rate(torch.matmul, device), rate(product, device)))
        whole.append(seconds_of_probe(bridge, tokens, device))
        without.append(seconds_of_gradients(bridge, tokens, device))
    count, best = shape.tokens, min(whole)
    return Timing(
        shape.name,
        count,
        plain_seconds=plain,
        probe_seconds=best / count,
        operations=(gradient_operations(shape) + norm_operations(shape)) / count,
        matmul_rate=max(matmul for matmul, _ in rates),
        product_rate=max(mine for _, mine in rates),
        norms=max(0.0, 1 - min(without) / best),
    )


def table(timings: list[Timing], device: str) -> str:
    """Lay timings out as a Markdown table, and say what they were taken on."""
    head = ("shape", "tokens", "plain loop, s/token", "probe, s/token", "times faster", "share of the limit")
    rows = [
        (
            t.shape,
            str(t.tokens),
            f"{t.plain_seconds:.3g}",
            f"{t.probe_seconds:.3g}",
            f"{t.gain:.1f}",
            f"{t.share:.0%}",
            f"{t.strict_share:.0%}",
            f"{t.norms:.0%}",
        )
        for t in timings
    ]
    rates = [max(t.matmul_rate for t in timings) / 1e9, max(t.product_rate for t in timings) / 1e9]
    return (
        f"{markdown_table((*head, 'strict share', 'norms'), rows)}\n\n"
        f"{_place(device)}; torch {torch.__version__}; float32; nuclear norm at q, k, v, o of every layer. "
        f"Share of the limit: at the rate of torch.matmul, {rates[0]:.0f} Gflop/s; strict: at that of the probe's "
        f"product if it is faster, {rates[1]:.0f} Gflop/s."
    )


def time_long(shape: Shape, targets: int | None, dtype: str, device: str) -> list[str]:
    """Probe a shape once, without the plain loop, which would not come to an end: one row of :func:`gpu_report`.

    The share of the limit is at the rate of ``torch.matmul`` in the same dtype. Where tokens are drawn, the operations
    of all tokens count in proportion.
    """
    kind = getattr(torch, dtype)
    bridge = load_model(random_model(shape, device, dtype=kind))
    tokens = torch.randint(2, 256, (shape.tokens + 1,), generator=torch.Generator().manual_seed(1)).tolist()
    probe(bridge, tokens[:1], tokens[1:9], norms=("nuclear",))
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    before = _allocated(device)
    seconds = _seconds(lambda: probe(bridge, tokens[:1], tokens[1:], norms=("nuclear",), targets=targets), device)
    operations = (gradient_operations(shape) + norm_operations(shape)) * (targets or shape.tokens) / shape.tokens
    share = operations / rate(torch.matmul, device, dtype=kind) / seconds
    peak = f"{(torch.cuda.max_memory_allocated() - before) / 1e9:.1f} GB" if device != "cpu" else "not measured"
    count = "all" if targets is None else str(targets)
    return [shape.name, str(shape.tokens), count, dtype, f"{seconds:.1f}", peak, f"{share:.0%}"]


def time_norms(width: int, device: str, count: int = 8) -> list[list[str]]:
    """Time the ways to the nuclear norms of square float32 matrices, and say how far from float64 they are."""
    matrices = torch.randn(count, width, width, device=device)
    ways = {**NUCLEAR, "svdvals": lambda given: torch.linalg.svdvals(given).sum(-1)}
    exact = torch.linalg.svdvals(matrices.double()).sum(-1)
    return [
        [
            str(width),
            name,
            f"{min(_seconds(lambda way=way: way(matrices), device) for _ in range(3)) / count * 1e3:.2f}",
            f"{float((way(matrices) / exact - 1).abs().max()):.0e}",
        ]
        for name, way in ways.items()
    ]


def gpu_report(device: str) -> str:
    """Measure on a GPU what a CPU cannot say: long responses at the width of a 7B model, and which norm is faster."""
    rows = [time_long(shape, n, dtype, device) for shape, n in GPU_SHAPES for dtype in ("float32", "bfloat16")]
    head = ("shape", "tokens", "measured", "dtype", "seconds", "memory above the weights", "share of the limit")
    norms = [row for width in NORM_WIDTHS for row in time_norms(width, device)]
    ways = markdown_table(("width", "nuclear norm by", "ms per matrix", "largest relative error"), norms)
    return f"{markdown_table(head, rows)}\n\n{ways}\n\n{_place(device)}; torch {torch.__version__}."


def _allocated(device: str) -> int:
    return torch.cuda.memory_allocated() if device != "cpu" else 0


def _place(device: str) -> str:
    name = processor_of(torch.device(device))
    return name if device != "cpu" else f"{name}, {torch.get_num_threads()} threads"


def seconds_of_probe(bridge: TransformerBridge, tokens: list[int], device: str) -> float:
    """Time the probe on a sequence, all tokens but the first."""
    return _seconds(lambda: probe(bridge, tokens[:1], tokens[1:], norms=("nuclear",)), device)


def seconds_of_gradients(bridge: TransformerBridge, tokens: list[int], device: str) -> float:
    """Time the gradients of the same tokens alone: what the probe does without norms."""
    ids = torch.tensor([tokens], device=device)
    sites = [Site(layer, name) for layer in attention_layers(bridge) for name in PROJECTIONS]
    targets = Targets(torch.arange(len(tokens) - 1, device=device), ids[0, 1:])

    def work() -> None:
        with run_pass(bridge, ids[:, :-1], sites) as single:
            single.gradients(targets).run(_Nothing(), Pace(bridge))

    return _seconds(work, device)


class _Nothing:
    """Takes gradients and makes nothing of them."""

    def take_inputs(self, inputs: Mapping[Site, Tensor]) -> None: ...

    def take(self, delta: Delta) -> None: ...

    def take_rank_one(self, site: Site, inputs: Tensor, values: Tensor) -> None: ...


def _check(found: xr.Dataset, expected: list[dict[tuple[int, str], float]]) -> None:
    """Refuse to time two things that differ."""
    for token, norms in enumerate(expected):
        for (layer, name), value in norms.items():
            mine = float(found.nuclear.sel(layer=layer, projection=name)[token])
            if abs(mine - value) > 1e-4 * value:
                raise RuntimeError(f"layer {layer}, {name}: the probe gives {mine}, the plain loop {value}")


def _seconds(work: Callable[[], Any], device: str) -> float:
    start = _now(device)
    work()
    return _now(device) - start


def _now(device: str) -> float:
    """Return the time once the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()
