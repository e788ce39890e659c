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
# # 4. Does rewarding it help?
#
# CorR-PO is GRPO in which a response's reward gains `-weight * rho`: a response in which entropy and strength are negatively correlated is worth more.
# The claim is that this makes reasoning better. To believe it, one would want four things:
#
# 1. accuracy rises more than under plain GRPO with the same samples,
# 2. rho really falls,
# 3. the controls do *not* do the same: a flipped sign, and rho shuffled among the responses of a group,
# 4. the responses have not learnt to please rho by repetition, length or filler.
#
# `inversion train compare demo` puts eleven methods to the shipped model `half`, which is right on about 60 % of problems; its tables come with
# the repository. It found that the reward does not move rho, so a second experiment moves rho itself: `inversion train compare rho`.

# %%
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from transformers.utils.logging import disable_progress_bar

from inversion.experiments.finetuning import train
from inversion.experiments.spec import TrainSpec
from inversion.experiments.tables import paired_differences
from inversion.figures import FIGURES, read_sources
from inversion.plots import PAGE_INCHES, curves, style, table_bands
from inversion.statistics.seeds import seed_interval

data = Path.cwd().parent / "figures" / "data"
comparison, progress = pd.read_csv(data / "comparison.csv"), pd.read_csv(data / "curves.csv")
comparison.groupby("method", sort=False).agg(seeds=("seed", "nunique"))

# %% [markdown]
# ## Along training
#
# Accuracy of the sampled responses, and rho as the reward measured it, in blocks of ten steps. Bands span seeds.

# %%
shown = progress[progress.method.isin(["grpo", "corrpo", "corrpo_flipped", "corrpo_shuffled"])]
blocks = (
    shown.assign(step=-(-shown.step // 10) * 10).groupby(["method", "seed", "step"], as_index=False, sort=False).mean()
)
with style():
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_INCHES, 2.7))
    for ax, measure in zip(axes, ("accuracy", "rho"), strict=True):
        curves(table_bands(blocks, "method", measure), ax, seeds=False, ylabel=measure)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)

# %% [markdown]
# ## On held-out problems
#
# Each method minus GRPO, paired by seed, with t-intervals over seeds: the same seed means the same training problems and the same starting point. An interval that
# holds zero says that this many seeds cannot tell the two apart; it does not say that they are equal. Its width says what could have been seen.

# %%
columns = {
    "pass_at_1": "pass@1",
    "pass_at_8": "pass@8",
    "rho_position": "rho, positions",
    "rho_token_type": "rho, token types",
}
rows = []
for method in comparison.method.unique():
    if method == "grpo":
        continue
    row = {"method": method}
    for column, label in columns.items():
        mean, low, high = seed_interval(paired_differences(comparison, column, method))
        row[label] = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" + (" *" if low > 0 or high < 0 else "")
    rows.append(row)
pd.DataFrame(rows).set_index("method")

# %% [markdown]
# A star marks an interval that leaves out zero. With ten methods and four columns, about two of forty would do so by chance.
#
# How to read it:
#
# - CorR-PO above GRPO, its controls not: what the claim predicts.
# - CorR-PO and its controls alike: whatever helps, it is not rho.
# - rho does not move: the reward was too weak, or too noisy, for these few steps. Nothing follows about the claim.
#
# ## Has rho been pleased by other means?
#
# Length, the share of tokens that are new in their response, repeated runs of four tokens, and words that carry no step of the work: before, and after each method.

# %%
signs = ["tokens", "distinct_tokens", "repeated_4grams", "filler_words", "finished", "entropy_bits"]
after = comparison[comparison.when == "after"].groupby("method", sort=False)[signs].mean()
before = comparison[comparison.when == "before"].drop_duplicates("seed")[signs].mean().rename("before").to_frame().T
pd.concat([before, after]).round(3)

# %% [markdown]
# ## Moving rho itself
#
# A reward only chooses among texts, and did not move rho. A term of the loss does, since rho also hangs on the weights. `inversion train compare rho` adds one to
# GRPO: rho steered `down`, `up`, or `held` where it was, with a control of the same size that moves the mean strength and no correlation, with rho in the reward, and with
# a positive control, a filler word in the place of rho. All start from `half`, on problems that it solves sometimes, where GRPO alone learns.

# %%
by_hand = pd.read_csv(data / "rho" / "comparison.csv")
columns = {"pass_at_1": "pass@1", "rho_position": "rho, positions", "rho_token_type": "rho, token types"}
columns |= {"tokens": "tokens", "entropy_bits": "bits", "filler_words": "fillers", "kl_nats": "nats from the start"}
before = by_hand[by_hand.when == "before"].drop_duplicates("seed").assign(method="before")
after = by_hand[by_hand.when == "after"]
pd.concat([before, after]).groupby("method", sort=False)[list(columns)].mean().rename(columns=columns).round(3)

# %% [markdown]
# Each method minus GRPO in pass@1, paired by seed, and accuracy against the rho that was reached: does accuracy follow?

# %%
pd.DataFrame(
    {
        method: dict(
            zip(("mean", "low", "high"), seed_interval(paired_differences(by_hand, "pass_at_1", method)), strict=True)
        )
        for method in by_hand.method.unique()
        if method != "grpo"
    }
).T.round(3)

# %%
sources = read_sources([data / "rho"])
next(FIGURES["dose-response"].draw(sources)).figure

# %%
next(FIGURES["training-layers"].draw(sources)).figure

# %% [markdown]
# Rho went where it was told, in every layer, as far from the start as GRPO alone. Accuracy did not rise where rho fell: `down` ends below `held`, and so does the control
# `strength`. The reward in the paper's form moved neither, although it teaches a filler at once. So in this model inversion is at most a sign of reasoning, and no lever;
# [docs/set-rho.md](../docs/set-rho.md) says what that contradicts, what it leaves open, and how to ask a model of your own.
#
# The same question of learning from examples (`inversion train supervised demo`): chains of thought are learnt from `fast` with rho steered down, up and not at all.

# %%
(learning,) = FIGURES["supervised-curve"].draw(read_sources([data / "supervised"]))
learning.figure

# %% [markdown]
# Rho is apart when the first right answers come, and they come as fast in all three: in the mean over the steps `down` is ahead of `none` by -0.7 [-1.6, +0.1] points, `up` by -0.3 [-1.8, +1.3].
#
# ## Try it
#
# A few CorR-PO steps on `half`, measured before and after. Everything that `inversion train` can do is a field of `TrainSpec`. So short a training shows how it is done, and
# nothing else.

# %%
warnings.simplefilter("ignore", FutureWarning)  # transformers' own, about settings that TRL still uses
disable_progress_bar()
folder = Path(tempfile.mkdtemp())
spec = TrainSpec(
    method="corrpo",
    model="half",
    out=str(folder / "run"),
    max_steps=8,
    save_steps=8,
    limit=64,
    held_out_limit=16,
    max_completion_length=96,
)
results = train(spec)

# %%
log = pd.read_csv(results / "log.csv")
log[["step", "reward", "accuracy", "rho", "completions/mean_length"]].dropna().round(2)

# %% [markdown]
# The table gives an interval for each row, not for the change; where the two overlap widely, eight steps on sixteen problems have shown nothing. A comparison that means something takes seeds, controls and patience: `inversion train compare demo`;
# [docs/corrpo.md](../docs/corrpo.md) says what ours found.
