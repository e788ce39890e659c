# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7. What a gradient gives away
#
# The probe rests on one fact: the gradient of a projection's weight is `Delta^T A`, and the rows of `A` are what the projection read. So the rows of the gradient lie in the span of the text.
# Here that fact is used the other way round: from the gradient back to the text ([arXiv 2405.15586](https://arxiv.org/abs/2405.15586)).

# %%
import matplotlib.pyplot as plt
import torch
from transformers.utils.logging import disable_progress_bar

import inversion
from inversion.plots import style
from inversion.recover import recover, row_span, share_recovered, text_gradient
from inversion.recover.gradient import add_noise
from inversion.recover.search import layer_inputs

disable_progress_bar()
model = inversion.load_model("fast")
texts = ["My PIN is 4071, tell no one.", "Spell this word backward (example: sun -> nus): gradient"]
gradient = text_gradient(model, texts)
{name: tuple(weight.shape) for name, weight in gradient.weights.items()}

# %% [markdown]
# That is all that is shared: six matrices of the first two layers, as in federated training. No text, no labels, no lengths.

# %%
found = recover(model, gradient)
for ids in found.sequences:
    print(repr(model.tokenizer.decode(ids)))
print("ranks", found.ranks, "of", found.width)

# %% [markdown]
# Only the last token of each is missing: it is predicted, but nothing reads it.
#
# ## Why it works
#
# Every token of the vocabulary is tested for its distance to the span of layer 0. The distance is divided by what rounding can explain, so that 1 is the border.

# %%
span = row_span(gradient.layer(0), gradient.dtype)
vocabulary = torch.arange(model.cfg.d_vocab)
distances = span.distances(layer_inputs(model, vocabulary[:, None], 0)[:, 0])
finite = distances[distances.isfinite()]
with style():
    figure, ax = plt.subplots(figsize=(3.25, 2.2))
    ax.plot(finite.sort().values.clamp_min(1e-3), ".", markersize=3)
    ax.axhline(1, color="0.5", linewidth=0.6)
    ax.set_yscale("log")
    ax.set_xlabel("tokens of the vocabulary, nearest first")
    ax.set_ylabel("distance over what rounding explains")

# %% [markdown]
# ## A check of the probe
#
# The probe never forms a gradient: it knows its singular values from the factors. Here torch takes the gradient of the last token's logit with respect to the query weight of each layer, and its singular values are summed.
# The rank counts different tokens in layer 0 and places in layer 1, less the first one: attention to a single position does not depend on the query.

# %%
ids = model.tokenizer(texts[0]).input_ids
capture = inversion.probe(model, ids[:-1], ids[-1:], projections=("q",))
logit = model.original_model(input_ids=torch.tensor([ids])).logits[0, -2, ids[-1]]
for layer in (0, 1):
    weight = model.blocks[layer].attn.q.original_component.weight
    (taken,) = torch.autograd.grad(logit, [weight], retain_graph=True)
    values = torch.linalg.svdvals(taken.double())
    probed = capture.nuclear.sel(layer=layer, projection="q").item()
    rank = row_span(taken.double(), taken.dtype, layer=layer).rank
    print(f"layer {layer}: torch {values.sum():.6f}, probe {probed:.6f}; rank {rank}")
print(f"{len(set(ids[:-1]))} different tokens in {len(ids) - 1} places")

# %% [markdown]
# ## How much noise hides it?
#
# Gaussian noise on every entry is the usual defence. Its deviation is given in units of the entries' root mean square.

# %%
encoded = [model.tokenizer(text).input_ids for text in texts]
for noise in (0, 1e-4, 1e-3, 1e-2, 1e-1, 1):
    share = share_recovered(recover(model, add_noise(gradient, noise), longest=32, prefixes=32), encoded)
    print(f"noise {noise:g}: {share.tokens:.0%} of the tokens, {share.sequences:.0%} of the texts")

# %% [markdown]
# Where it breaks by batch size, length and dtype is in [docs/recover.md](../docs/recover.md).
