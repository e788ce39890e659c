"""One graph of the whole model: for models whose blocks talk past the residual stream."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from inversion.errors import InputError
from inversion.hooks import hooks
from inversion.probes.capture import Recording, Site, record_residuals, record_sites
from inversion.probes.gradients.method import Collector, Delta, Gradients, Pass, Targets, run_model, scalars
from inversion.probes.pace import Pace


class WholePass(Pass):
    """A pass that keeps what projections read, the stream at every probed layer, and all logits."""

    def __init__(
        self, model: TransformerBridge, tokens: Tensor, sites: Sequence[Site], *, batched: bool, prefix: bool
    ) -> None:
        super().__init__(model, tokens, sites, batched=batched, prefix=prefix)
        with torch.no_grad():
            self.recording, self._logits = self.record(tokens)

    def logits(self, positions: Tensor) -> Tensor:
        """Return the logits at positions of the sequence, (n, V)."""
        return self._logits[positions]

    def residual(self, layer: int, positions: Tensor) -> Tensor | None:
        """Return the stream after a layer, (n, d_model)."""
        stream = self.recording.residuals.get(layer)
        return None if stream is None else stream[positions.to(stream.device)]

    def gradients(self, targets: Targets) -> "WholeGraph":
        """Return what gives the gradients of these targets."""
        return WholeGraph(self, targets)

    def record(self, tokens: Tensor) -> tuple[Recording, Tensor]:
        """Run tokens (1, b), in a graph where gradients are on, and return the recording and the logits (b, V)."""
        recording = Recording()
        with hooks() as add:
            record_sites(self.model, self.sites, recording, add, apart=True)
            record_residuals(self.model, {site.layer for site in self.sites}, recording, add)
            logits = run_model(self.model, tokens)
        return recording, logits


class WholeGraph(Gradients):
    """Run each block of targets on its prefix, with one graph from the lowest site to the logits."""

    def __init__(self, run: WholePass, targets: Targets) -> None:
        self.whole, self.targets = run, targets

    def run(self, collector: Collector, pace: Pace) -> None:
        """Give the collector every target's gradient at every site, block of targets by block of targets."""
        collector.take_inputs(self.whole.recording.inputs)
        lengths = [n + 1 if self.whole.prefix else self.whole.tokens.shape[1] for n in self.targets.positions.tolist()]

        def work(wave: list[slice]) -> None:
            for block in wave:
                self._run_block(block, lengths[block.stop - 1], collector, pace)

        pace.each_wave(lengths, work)

    def _run_block(self, block: slice, length: int, collector: Collector, pace: Pace) -> None:
        recording, logits = self.whole.record(self.whole.tokens[:, :length])
        wanted = [recording.outputs[site] for site in self.whole.sites]

        def carry(part: slice) -> None:
            rows, written = self.targets.positions[part], self.targets.token_ids[part]
            values = scalars(logits[rows], written, self.targets.quantity)  # (c,)
            identity = torch.eye(len(values), dtype=values.dtype, device=values.device)
            if values.requires_grad:
                pulled = self.whole.pull([values], wanted, [identity])
            else:  # A hook has put something else into the place of all that the projections wrote.
                pulled = [output.new_zeros(len(values), *output.shape) for output in wanted]
            for site, delta in zip(self.whole.sites, pulled, strict=True):
                collector.take(Delta(site, part, delta[:, 0]))

        try:
            pace.each_chunk(block, length, carry)
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            raise InputError(
                "a hook changes a tensor in place that gradients are taken through; let it return a changed copy."
            ) from error
