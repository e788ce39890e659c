"""The graph of one block at a time: blocks talk only through the residual stream, so the graph is cut between them.

The targets' gradients are carried from the last block down: a block is run again on what entered it, used, and dropped
before the one below it is run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inversion.probes.gradients.method import Collector, Delta, Gradients, Targets, one_hot, scalars
from inversion.probes.gradients.streams import BlockGraph, Call, Streams
from inversion.probes.linear import LinearMaps
from inversion.probes.pace import Pace, Workers, head_rows


@dataclass
class Prefix:
    """A block of targets, and the beginning of the sequence that they see.

    part: The n targets, as a slice of all.
    length: Positions that they see.
    calls: How each block of the model is called on those positions, by layer.
    cotangents: The targets' gradients at the stream that leaves the layer being worked on, (n, 1, length, d_model);
        None above the first layer that has them.
    """

    part: slice
    length: int
    calls: dict[int, Call]
    cotangents: Tensor | None = None

    def within(self, part: slice) -> slice:
        """Return a part of all targets as a slice of this block's."""
        return slice(part.start - self.part.start, part.stop - self.part.start)


class CutGraph(Gradients):
    """Carry gradients down block by block, from each target's own row of the stream that leaves the last."""

    def __init__(self, streams: Streams, targets: Targets) -> None:
        self.streams, self.targets = streams, targets
        self._leaving = self._through_head()

    def run(self, collector: Collector, pace: Pace) -> None:
        """Give the collector every target's gradient at every site, wave of targets by wave of targets."""
        pace.each_wave(self.lengths, lambda wave: self._carry(wave, collector, pace))

    @property
    def lengths(self) -> list[int]:
        """How many positions each target is run on."""
        whole = self.streams.tokens.shape[1]
        return [n + 1 if self.streams.prefix else whole for n in self.targets.positions.tolist()]

    def _through_head(self) -> Tensor:
        """Return each scalar's gradient at its own row of the stream that leaves the last block, (t, d_model)."""
        found = []
        for part in head_rows(len(self.targets), self.streams.vocabulary):
            rows = self.streams.leaving_rows(self.targets.positions[part]).requires_grad_()  # (n, d_model)
            logits = self.streams.head(rows)
            values = scalars(logits, self.targets.token_ids[part].to(logits.device), self.targets.quantity)
            # No position talks to another up here, so the gradient of the sum holds everybody's own.
            found += torch.autograd.grad(values.sum(), [rows])
        return torch.cat(found)

    def _carry(self, wave: Sequence[slice], collector: Collector, pace: Pace) -> None:
        """Carry one wave of targets from the last layer to the lowest."""
        lengths = self.lengths
        prefixes = []
        for part in wave:
            length = lengths[part.stop - 1]
            prefixes.append(Prefix(part, length, self.streams.calls(length)))
        with pace.workers(len(wave), prefixes[0].length) as workers:
            for layer in range(self.streams.last, self.streams.lowest - 1, -1):
                self._through_block(layer, prefixes, collector, pace, workers)

    def _through_block(
        self, layer: int, prefixes: Sequence[Prefix], collector: Collector, pace: Pace, workers: Workers
    ) -> None:
        """Carry a wave through one block. The longest prefix comes first: what it reads and writes serves all."""
        maps = self.streams.maps_of(layer)
        graphs = {0: self._record(layer, prefixes[0], maps)}
        collector.take_inputs(graphs[0].inputs)

        def work(number: int) -> None:
            prefix = prefixes[number]
            graph = graphs.pop(number, None) or self._record(layer, prefix, maps)
            pace.each_chunk(
                prefix.part, prefix.length, lambda part: self._pull_chunk(layer, graph, prefix, part, collector)
            )

        workers.map(work, range(len(prefixes)))

    def _record(self, layer: int, prefix: Prefix, maps: LinearMaps) -> BlockGraph:
        graph = self._new_graph(layer)
        self.streams.record(graph, layer, prefix.length, prefix.calls[layer], maps)
        return graph

    def _new_graph(self, layer: int) -> BlockGraph:
        return BlockGraph(sites=[site for site in self.streams.sites if site.layer == layer])

    def _pull_chunk(self, layer: int, graph: BlockGraph, prefix: Prefix, part: slice, collector: Collector) -> None:
        """Carry c targets from what leaves a block to its sites and to what enters it."""
        if prefix.cotangents is None:
            rows = self.targets.positions[prefix.part]
            prefix.cotangents = one_hot(self._leaving[prefix.part], rows, prefix.length)
        cotangent = prefix.cotangents[prefix.within(part)].to(graph.leaving.device)  # (c, 1, length, d_model)
        below = layer > self.streams.lowest
        wanted = [*graph.outputs.values(), *([graph.entering] if below else [])]
        pulled = self.streams.pull([graph.leaving], wanted, [cotangent])
        self._hand_over(graph, part, pulled, collector)
        if below:
            # In place: what left the block is not needed any more. The wave stays on the device that it started on.
            prefix.cotangents[prefix.within(part)] = pulled[-1].to(prefix.cotangents.device)

    @staticmethod
    def _hand_over(graph: BlockGraph, part: slice, pulled: Sequence[Tensor], collector: Collector) -> None:
        for site, values in zip(graph.outputs, pulled, strict=False):  # (c, 1, length, d_out)
            collector.take(Delta(site, part, values[:, 0]))
