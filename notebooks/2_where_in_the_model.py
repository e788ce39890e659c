# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Where in the model, and is it what it seems?
#
# A correlation over all layers and projections is one number. Which weights carry it? And does it survive the
# questions that a sceptic would ask?

# %%
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt

import inversion
from inversion.demo import PROBLEMS
from inversion.measure import measure_run
from inversion.plots import PAGE_INCHES, layer_heat_map, specification_curve, style
from inversion.responses import Generation, read_problems

# %% [markdown]
# ## Measure the thinking model, and the same model with random weights
#
# The second run reads the *same responses* with weights that were never trained. What it shows comes from the architecture and the texts, not
# from anything that was learnt.

# %%
folder = Path(tempfile.mkdtemp())
problems = read_problems(str(PROBLEMS), 24)
path = measure_run(inversion.load_model("slow"), problems, folder / "slow", generation=Generation(max_new_tokens=200))
run, responses = inversion.load_run(path), inversion.load_responses(path)

# As token ids: the text leaves out the end token.
answered = [
    replace(problem, response_token_ids=tuple(ids))
    for problem, ids in zip(problems, responses.response_token_ids, strict=True)
]
path = measure_run(inversion.load_model("slow", random_weights=True), answered, folder / "random")
untrained = inversion.load_run(path)

# %% [markdown]
# ## Which layers and projections?
#
# A star marks a correlation that differs from zero after adjusting for the number of cells (Benjamini-Hochberg). Both maps share one
# scale of colours.

# %%
maps = {"slow": inversion.layer_map(run), "random weights": inversion.layer_map(untrained)}
limit = max(float(abs(table.estimate).max()) for table in maps.values())
with style():
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_INCHES, 2.2), sharey=True)
    for ax, (name, table) in zip(axes, maps.items(), strict=True):
        layer_heat_map(table, ax, limit=limit, bar=ax is axes[-1], title=name)

# %% [markdown]
# A mean over all cells hides whatever differs between them: look at the first layer and at those above it.
#
# ## Does the sign hang on a choice?
#
# Norm, unit of analysis, correlation coefficient and layers are the analyst's choice. The specification curve makes every choice and sorts the
# results. A claim that holds only at one end of it is a claim about the choice.

# %%
ax = specification_curve(inversion.specification_curve(run, resamples=500))

# %% [markdown]
# ## What a sceptic asks
#
# - Is it only the *position* in the response, or only the *surprisal* of the token? Hold them fixed.
# - Is it a matter of whole responses, long against short ones? Shuffle strengths within responses, which keeps what differs between them.
# - Would weights that were never trained show it as well?
# - `logit_space` is a strength that follows entropy by construction. It should be near +1, and says nothing about weights.

# %%
inversion.controls(run, random_weights=untrained)

# %% [markdown]
# ## Inside responses or between them?
#
# The two can have opposite signs (Simpson's paradox). Then the pooled number depends on which responses were drawn.

# %%
inversion.within_between(run)

# %% [markdown]
# ## Two kinds of tokens
#
# The chains of thought of `slow` hold words that are free to vary by design (*So*, *Then*, *Now*, *Next*), beside tokens that are computed. What
# if the correlation is only a contrast between the two? Split by entropy: the most uncertain fifth against the rest.

# %%
inversion.segments(run, by="entropy")

# %% [markdown]
# And keep only tokens that were nearly certain, which leaves the free words out:

# %%
sure = run.isel(token=run.entropy_bits.values < 0.5)
for label, tokens in (("all tokens", run), ("under half a bit", sure)):
    rho = inversion.correlate(tokens)
    print(f"{label:17s} {rho.estimate:+.2f} [{rho.low:+.2f}, {rho.high:+.2f}]")

# %% [markdown]
# If the second number does not have the sign of the first, the inversion of this model is a contrast between kinds of tokens, not a relation
# that holds among the computed ones. On all 64 problems that is what we found ([lab notes](../LAB_NOTES.md)). Whether the same is true of large
# models can be asked with these very cells: only the name of the model changes.
