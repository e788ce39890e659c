"""Recover the text behind a gradient: "gradient inversion" in the other sense of the words.

The gradient of a query, key or value weight is ``Delta^T A``, so its rows lie in the span of what the projection read.
Whoever has the gradient and the model can test every token of the vocabulary against that span in layer 0, and every
prefix against that of layer 1 (DAGER, arXiv 2405.15586). Here this serves as a check of the probe's factorisation that
shares no code with it, and as a demonstration of what sharing a gradient gives away.
"""

from inversion.recover.gradient import SharedGradient, load_gradient, save_gradient, text_gradient
from inversion.recover.score import Share, share_recovered
from inversion.recover.search import Recovery, recover
from inversion.recover.span import Span, row_span

__all__ = [
    "Recovery",
    "Share",
    "SharedGradient",
    "Span",
    "load_gradient",
    "recover",
    "row_span",
    "save_gradient",
    "share_recovered",
    "text_gradient",
]
