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
# # 1. A first look: how sure was the model, and how strongly did its weights speak?
#
# A language model writes token by token. At each token two numbers can be read:
#
# - **entropy**: how uncertain it was about what to write, in bits;
# - **strength**: how strongly its attention weights drive the logit of the token it wrote. It is a norm of that logit's
#   gradient with respect to the query, key, value and output weights of a layer.
#
# The *entropy-gradient inversion* is the claim that in reasoning models the two are negatively correlated. Here we
# measure one answer, look at it, and then ask whether one answer can tell.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import inversion
from inversion.demo import PROBLEMS
from inversion.measure import measure_run
from inversion.plots import PAGE_INCHES, entropy_strength, style
from inversion.responses import Generation, generate, read_problems

# %% [markdown]
# ## Load a model and let it answer
#
# `slow` is one of three models that come with the package: 0.8 million parameters, trained to think before it answers.
# Any folder in Hugging Face format or hub id would do (notebook 5).

# %%
model = inversion.load_model("slow")
problems = read_problems(str(PROBLEMS))
problem = problems[0]
prompt = model.tokenizer(problem.prompt)["input_ids"]
[(response, finished)] = generate(model, [prompt], Generation(temperature=1.0, max_new_tokens=200), seed=0)
print(problem.prompt, "\n")
print(model.tokenizer.decode(response))

# %% [markdown]
# ## Measure every token of the answer
#
# `probe` reads the response as it stands, in one pass, and returns a labelled dataset: entropies by token, and each norm
# by token, layer and projection. Nothing is approximated: the norms are those of the full weight gradients.

# %%
capture = inversion.probe(model, prompt, response)
capture

# %% [markdown]
# ## Where was it uncertain?
#
# Hover over a token to read its numbers. Most tokens are certain: they are computed, or there is only one way to go on. The
# uncertain ones are mainly words that could have been others.

# %%
inversion.show_tokens(capture, by="entropy_bits")

# %% [markdown]
# ## Where did the weights speak?
#
# The same text, coloured by strength: the nuclear norm, averaged over layers and projections. Compare it with the picture above: if
# the claim holds for this answer, bright tokens there are pale here.

# %%
inversion.show_tokens(capture, by="nuclear")

# %% [markdown]
# ## Is there a relation?
#
# One point a token. The correlation is Spearman's rho. One response allows an estimate but no interval: tokens of
# one response depend on each other, and only *responses* can be resampled. The result says so.

# %%
single = inversion.correlate(capture)
single

# %% [markdown]
# So let us measure more answers, from both a model that answers directly (`fast`) and one that thinks (`slow`). A *run* is a folder:
# a manifest and Parquet files. `load_run` returns all its tokens in the layout of a capture, with a `response` for each.

# %%
folder = Path(tempfile.mkdtemp())
runs = {}
for name in ("fast", "slow"):
    path = measure_run(
        inversion.load_model(name), problems[:24], folder / name, generation=Generation(max_new_tokens=200)
    )
    runs[name] = inversion.load_run(path)

# %%
results = {name: inversion.correlate(run) for name, run in runs.items()}
with style():
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_INCHES, 2.6), sharey=True)
    for ax, (name, run) in zip(axes, runs.items(), strict=True):
        entropy_strength(run, ax, result=results[name], title=name)
    axes[1].set_ylabel("")

# %% [markdown]
# Each dot is a token, darker where there are many; the line follows the median. The interval resamples responses.
#
# ## Do the two models differ?

# %%
inversion.compare(runs["fast"], runs["slow"])

# %% [markdown]
# If the interval of the difference leaves out zero, the two models differ in this correlation. It does not say *why*: text, length and
# the mix of certain and uncertain tokens differ as well. That is what the next notebook is about.
