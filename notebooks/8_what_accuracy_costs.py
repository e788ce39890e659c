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
# # 8. What accuracy costs
#
# Reinforcement learning makes a policy more right and more certain. [arXiv 2505.22617](https://arxiv.org/abs/2505.22617) says that one is paid for with the other, by R = -a exp(H) + b: accuracy R, entropy H in nats. Then b - a is where accuracy ends,
# and the first part of a training run tells the rest. `inversion train compare entropy` trained the shipped model `half` with GRPO, Clip-Cov and KL-Cov; its table comes with the repository. What follows reads it, and then makes such a table.

# %%
import tempfile
from pathlib import Path

import pandas as pd
from transformers.utils.logging import disable_progress_bar

from inversion.experiments.comparison import entropy_rows
from inversion.experiments.finetuning import train
from inversion.experiments.spec import TrainSpec
from inversion.figures import FIGURES, Sources
from inversion.statistics.entropy_law import change_correlations, entropy_changes, fit_entropy_law
from inversion.statistics.seeds import seed_interval

table = pd.read_csv(Path.cwd().parent / "figures" / "data" / "entropy.csv")
table.groupby(["method", "seed"], sort=False).agg(["first", "last"])[["accuracy", "entropy_bits"]].round(3)

# %% [markdown]
# ## Along training
#
# Accuracy and entropy are of the same answers to held-out problems, drawn with the same random numbers each time, so what changes is the policy.

# %%
sources = Sources({}, {"entropy": table})
next(FIGURES["entropy-curves"].draw(sources)).figure

# %% [markdown]
# ## The law
#
# It is fitted to the first half of each curve (filled marks) and predicts the rest (hollow). A prediction has to beat the plainest one: that accuracy stays where it was at the end of the first half.

# %%
for law in fit_entropy_law(table):
    print(law)
next(FIGURES["entropy-law"].draw(sources)).figure

# %% [markdown]
# The line has two parameters, and any fall of entropy beside any rise of accuracy makes one that fits. What tells the law from a coincidence is the error on the second half, and whether *a* is the same from seed to seed.
#
# ## What moves entropy
#
# To first order an update changes entropy by minus the learning rate times the covariance of log-probability and advantage. So where the covariance is large, entropy should fall faster: a negative correlation with its change.

# %%
changes = entropy_changes(table)
for method, values in change_correlations(changes).items():
    print(
        f"{method}: {seed_interval(values)[0]:+.2f} [{seed_interval(values)[1]:+.2f}, {seed_interval(values)[2]:+.2f}]"
    )
next(FIGURES["entropy-covariance"].draw(sources)).figure

# %% [markdown]
# ## Try it
#
# A few steps of GRPO that answer sixteen held-out problems every second step. What is trained is the same, to the bit, as without the answers.

# %%
disable_progress_bar()
spec = TrainSpec(
    method="grpo",
    out=str(Path(tempfile.mkdtemp()) / "run"),
    max_steps=6,
    save_steps=6,
    limit=64,
    held_out_limit=16,
    held_out_every=2,
)
entropy_rows(pd.read_csv(train(spec) / "log.csv")).round(4)
