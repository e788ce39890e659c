"""Gradients of per-token scalars at the outputs of attention projections, as factors, never as weight gradients.

For a token with scalar s_i, read at sequence position n_i, the gradient of s_i with respect to a projection's weight is
``G = Delta_i^T A``: ``A`` (b, d_in) holds what the projection read at positions 0..n_i, and ``Delta_i`` (b, d_out) the
gradient of s_i at what it wrote. This package computes Delta for many tokens at once, in one of three ways:

* ``WholeGraph``: one graph of the whole model, for models that need it;
* ``CutGraph``: the graph of one block at a time, from the last down, since blocks
  talk through the residual stream only; memory then does not grow with depth;
* ``CutGraphWithRows``: the same, and the last block, above whose attention no
  position talks to another, gives all tokens' own rows in one backward pass.

Positions after n_i cannot matter, so targets are taken in blocks that see their own prefix only.
``plan_for`` finds out on the model itself which way holds.
"""

from inversion.probes.gradients.method import (
    QUANTITIES,
    Collector,
    Delta,
    Gradients,
    Pass,
    Quantity,
    Targets,
    scalars,
)
from inversion.probes.gradients.plans import Plan, plan_for, run_pass

__all__ = [
    "QUANTITIES",
    "Collector",
    "Delta",
    "Gradients",
    "Pass",
    "Plan",
    "Quantity",
    "Targets",
    "plan_for",
    "run_pass",
    "scalars",
]
