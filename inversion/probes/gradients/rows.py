"""The last block's own rows for all targets at once: above its attention no position talks to another.

One backward pass of sum_i s_i through the last block gives in row n_i the gradient of s_i alone: at what o and q wrote,
whose weight gradients are then one outer product each, and at all else but k and v. Only what goes through k and v of
the last block, and everything below it, is carried target by target.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from inversion.probes.capture import Add, Site, projections_of
from inversion.probes.gradients.cut import CutGraph, Prefix
from inversion.probes.gradients.method import Collector, Delta, Targets, one_hot
from inversion.probes.gradients.streams import BlockGraph, Streams
from inversion.probes.pace import Pace


class Cut(NamedTuple):
    """A tensor of the graph below a cut and the leaf that stands for it in the graph above."""

    below: Tensor
    above: Tensor


@dataclass
class LastBlockGraph(BlockGraph):
    """The graph of the last block, cut at q, k and v too.

    cuts: Where q, k and v are written, (1, b, d_out).
    mixed: What o read, in the graph above the cuts, (1, b, d_in).
    """

    cuts: dict[str, Cut] = field(default_factory=dict)
    mixed: Tensor = field(default_factory=lambda: torch.empty(0))

    def hook_into(self, model: TransformerBridge, layer: int, add: Add) -> None:
        """Hook into the block so that its next pass is cut and fills this recording."""
        modules = projections_of(model, layer)
        for name in ("q", "k", "v"):
            add(modules[name].register_forward_hook(self._cut(name)))
        add(modules["o"].register_forward_pre_hook(self._keep_mixed))
        super().hook_into(model, layer, add)

    def _cut(self, name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            self.cuts[name] = Cut(output, output.detach().requires_grad_())
            return self.cuts[name].above

        return hook

    def _keep_mixed(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.mixed = args[0]


class CutGraphWithRows(CutGraph):
    """Start from each target's own row at what the last o read, and at what enters the last block past k and v."""

    def __init__(self, streams: Streams, targets: Targets) -> None:
        super().__init__(streams, targets)
        length = streams.tokens.shape[1]
        q, o = (Site(streams.last, name) for name in "qo")
        graph = LastBlockGraph(sites=(q, o))
        streams.record(graph, streams.last, length, streams.calls(length)[streams.last], streams.maps_of(streams.last))
        leaving = torch.zeros_like(graph.leaving)  # (1, T, d_model)
        leaving[0, targets.positions.to(leaving.device)] = self._leaving.to(leaving.device)
        below = [graph.entering] if streams.last > streams.lowest else []
        wanted = [graph.outputs[o], graph.mixed, graph.cuts["q"].above, *below]
        o_rows, mixed_rows, q_rows, *past = torch.autograd.grad([graph.leaving], wanted, [leaving], retain_graph=True)
        self._rank_one = {
            o: (self._own(graph.inputs[o][None]), self._own(o_rows)),
            q: (self._own(graph.inputs[q][None]), self._own(q_rows)),
        }
        self._mixed = self._own(mixed_rows)  # (t, d_in of o)
        # Past k and v to the stream that enters the block, (t, d_model); none where nothing below is wanted.
        self._entering = [
            self._own(rows + torch.autograd.grad([graph.cuts["q"].below], below, [q_rows])[0]) for rows in past
        ]

    def run(self, collector: Collector, pace: Pace) -> None:
        """Give the collector every target's gradient at every site."""
        for site, (inputs, values) in self._rank_one.items():
            if site in self.streams.sites:
                collector.take_rank_one(site, inputs, values)
        if not set(self.streams.sites) <= set(self._rank_one):
            super().run(collector, pace)

    def _own(self, rows: Tensor) -> Tensor:
        """Return each target's own row of (1, T, d): (t, d)."""
        return rows[0, self.targets.positions.to(rows.device)]

    def _new_graph(self, layer: int) -> BlockGraph:
        graph = super()._new_graph(layer)
        return LastBlockGraph(sites=graph.sites) if layer == self.streams.last else graph

    def _pull_chunk(self, layer: int, graph: BlockGraph, prefix: Prefix, part: slice, collector: Collector) -> None:
        if not isinstance(graph, LastBlockGraph):
            super()._pull_chunk(layer, graph, prefix, part, collector)
            return
        streams, rows = self.streams, self.targets.positions[part]
        k, v = graph.cuts["k"], graph.cuts["v"]
        mixed = one_hot(self._mixed[part], rows, prefix.length)  # (c, 1, length, d_in of o)
        pulled = streams.pull([graph.mixed], [k.above, v.above], [mixed])
        for name, values in zip("kv", pulled, strict=True):
            if Site(layer, name) in streams.sites:
                collector.take(Delta(Site(layer, name), part, values[:, 0]))
        if not self._entering:
            return
        (entering,) = streams.pull([k.below, v.below], [graph.entering], pulled)  # (c, 1, length, d_model)
        entering[torch.arange(len(rows)), 0, rows.to(entering.device)] += self._entering[0][part]
        if prefix.cotangents is None:
            shape = (prefix.part.stop - prefix.part.start, *entering.shape[1:])
            prefix.cotangents = entering.new_empty(shape)
        prefix.cotangents[prefix.within(part)] = entering
