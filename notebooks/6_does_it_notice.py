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
# # 6. Does it notice its mistake?
#
# A model is made to go on from a chain of thought that ends in a wrong result. Does it get to the right answer all the same, and if it does, is there one direction in its
# residual stream that says so? The recipe is that of [arXiv 2603.16331](https://arxiv.org/abs/2603.16331); what was found with more problems is in [docs/critique.md](../docs/critique.md).

# %%
import tempfile
from pathlib import Path

import pandas as pd
from transformers.utils.logging import disable_progress_bar

import inversion
from inversion.critique import Settings, study
from inversion.critique.mistakes import demo_cases
from inversion.figures.of_critique import critique_figure, read_tables

disable_progress_bar()
model = inversion.load_model("slow")
cases = demo_cases(60)
for case in cases[:3]:
    print(repr(case.opening), "ends in", repr(case.opening[slice(*case.error)]), "and the answer is", case.answer)

# %% [markdown]
# Each case holds one wrong result: a total, a chosen number or letter, or one of those that are left. The model goes on from there, greedily. Thinking and final answer are judged apart.
#
# The study keeps each of its stages in a folder and goes on where it stopped. Besides -1 and 1, the coefficients of the paper, it steers with 50 times the vector, for a reason that shows below.

# %%
settings = Settings(alphas=(-50.0, -1.0, 0.0, 1.0, 50.0), random=1, steered=12, measured=9, max_new_tokens=100)
folder = study(model, cases, Path(tempfile.mkdtemp()) / "study", settings)
tables = read_tables(folder)

# %%
rates = tables["rates"]
shares = rates[rates.condition == "injected"].pivot(index="outcome", columns="task", values="share")
shares.round(2)

# %% [markdown]
# Sums carry the error on: every step builds on the last total. Lists and words do not: the prompt still has them, and the model looks there. So what looks like a *hidden critique*, an answer that is right after thinking that is wrong,
# needs no error to be noticed. Read the text of one:

# %%
outcomes = pd.read_csv(folder / "outcomes.csv")
hidden = outcomes[outcomes.injected == "hidden critique"]
print(hidden.injected_text.iloc[0] if len(hidden) else "none")

# %% [markdown]
# ## Vector, classifier, steering
#
# The classifier tells recovered answers from undisturbed ones, on problems that it was neither trained nor stopped on. *length* is the vector's length over that of the residual stream: about one part in a hundred, which is why the
# paper's coefficients move nothing here.

# %%
if "probe" in tables:
    print(tables["probe"][["layer", "auroc", "low", "high", "paired", "length"]].round(3).to_string(index=False))

# %%
if "steering" in tables:
    print(tables["steering"].pivot_table(index=["direction", "alpha"], columns="condition", values="accuracy").round(2))

# %% [markdown]
# A vector that moves answers has to be compared with others of its length: random ones, and that of another layer.
#
# ## Strength where it is corrected
#
# The mean rank of a token's strength within its response, 0 for the weakest token and 1 for the strongest.

# %%
strength = tables["strength"]
strength[strength.measure == "strength"].pivot(index="place", columns="group", values="mean").round(2)

# %%
tables["matched"].round(3)

# %% [markdown]
# The last table compares the corrected token with the same token of the same answer, given without an error. If correcting took strength, its first line would lie above 0.

# %%
critique_figure(tables).figure
