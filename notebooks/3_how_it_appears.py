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
# # 3. How does it appear in training?
#
# The claim's strongest picture is a curve: within the first few hundred steps of fine-tuning on chains of thought the correlation of entropy
# and strength falls from about zero to about -0.5, and stays there. `inversion reproduce` trains a small lineage from random weights and
# measures every checkpoint, so that the same curve can be drawn where everything is known. Its tables come with the repository.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from transformers import AutoModelForCausalLM

import inversion
from inversion.demo import MODELS, PROBLEMS
from inversion.demo.recipe import Training, build_tokenizer, train
from inversion.measure import measure_run
from inversion.plots import PAGE_INCHES, curves, style, table_bands, trajectory
from inversion.reference import SFT
from inversion.responses import Generation, read_problems

data = Path.cwd().parent / "figures" / "data"
lineage = pd.read_csv(data / "lineage.csv")
lineage.groupby("stage", sort=False).agg(
    seeds=("seed", "nunique"), checkpoints=("step", "nunique"), steps=("step", "max")
)

# %% [markdown]
# ## The curve, and the accuracy under it
#
# The model's own responses to held-out problems at each checkpoint; nuclear norm; the band spans the seeds. Hollow marks are the values of
# the first author's post, for models some ten thousand times larger.

# %%
plain = lineage.query("stage == 'finetune' and texts == 'own' and norm == 'nuclear' and control == 'none'")
with style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_INCHES, 2.6))
    curves(table_bands(plain, "unit", "estimate"), left, reference=SFT, log=True, ylabel="rho", title="fine-tuning")
    left.legend()
    left.axhline(0, color="grey", linewidth=0.6)
    right_share = plain.query("unit == 'position'").assign(label="share right")
    curves(
        table_bands(right_share, "label", "accuracy"), right, log=True, ylabel="share right", title="the same models"
    )

# %% [markdown]
# Three questions to put to this picture: is there a fall, does it last, and does it go with accuracy? The table has the numbers.

# %%
table = plain.query("unit == 'position'").pivot(index="step", columns="seed", values=["estimate", "accuracy"])
table.style.format("{:+.2f}", subset=["estimate"]).format("{:.0%}", subset=["accuracy"])

# %% [markdown]
# ## Is it the model or its texts?
#
# At every checkpoint the model writes other texts: broken ones first, then chains of thought. On *reference* texts, the same words at every step,
# only the model changes. Where the two curves part, what is measured belongs to the texts.

# %%
same = lineage.query("stage == 'finetune' and norm == 'nuclear' and control == 'none' and unit == 'position'")
same = same[same.texts.isin(["own", "reference"])]
with style():
    figure, ax = plt.subplots(figsize=(PAGE_INCHES, 2.6))
    curves(table_bands(same, "texts", "estimate"), ax, log=True, ylabel="rho", title="own texts and reference texts")
    ax.legend()
    ax.axhline(0, color="grey", linewidth=0.6)

# %% [markdown]
# ## Which tokens carry it?
#
# `computed` leaves out the words of the chains of thought that are free to vary; `free` keeps only those; `partial` holds position and surprisal fixed.

# %%
parts = lineage.query("stage == 'finetune' and texts == 'own' and norm == 'nuclear' and unit == 'position'")
parts = parts[parts.control.isin(["none", "computed", "partial"])]
with style():
    figure, ax = plt.subplots(figsize=(PAGE_INCHES, 2.6))
    curves(table_bands(parts, "control", "estimate"), ax, log=True, ylabel="rho", title="what remains")
    ax.legend()
    ax.axhline(0, color="grey", linewidth=0.6)

# %% [markdown]
# ## On a real language model
#
# `inversion reproduce --model smollm2` measures SmolLM2-135M-Instruct (dequantised from 4 bits, so no number is that of the published model) on GSM8K,
# first as it is: its own responses and worked solutions, asked in two ways, beside random weights, at other temperatures and lengths, and reasoning
# traces of larger models.

# %%
baseline = pd.read_csv(data / "pretrained" / "baseline.csv")
baseline = baseline.query("norm == 'nuclear' and unit == 'position' and control in ['none', 'partial']")
places = ["survey", "model", "texts", "measurement"]
baseline.pivot(index=places, columns="control", values=["estimate", "low", "high"]).style.format("{:+.2f}")

# %% [markdown]
# What would you conclude from the rows on length and temperature about comparing two models on their own responses?
#
# Then it is fine-tuned on GSM8K's worked solutions, with all weights (`full`) or adapters (`lora`), on chains of thought with tags (`chains`) and windows of
# reasoning traces (`traces`), and on what is no reasoning: the solutions with their words in random order (`shuffled`), and the questions (`prompts`).
# Each arm is measured on its own responses (`sampled`) and on the same worked solutions all along (`worked`). Few tokens are drawn from few responses, so the
# bands are 95 % intervals over responses: look at their width first.

# %%
pretrained = pd.read_csv(data / "pretrained" / "finetuning.csv")
pretrained = pretrained.query("norm == 'nuclear' and control == 'none' and unit == 'position'")
with style():
    figure, axes = plt.subplots(2, 3, figsize=(PAGE_INCHES, 4.2), sharex=True, sharey=True, layout="constrained")
    for ax, arm in zip(axes.flat, pretrained.arm.unique(), strict=True):
        bands = table_bands(pretrained[pretrained.arm == arm], "texts", "estimate", intervals=True)
        curves(bands, ax, log=True, seeds=False, reference=SFT, ylabel="rho", title=arm)
        ax.axhline(0, color="grey", linewidth=0.6)
        ax.label_outer()
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=4)

# %% [markdown]
# Does an arm leave the value that it starts from by more than its band? Does it leave the controls? What would have to be larger, the model, the number
# of tokens or the number of steps, for this to decide? The table has the values, and the share of right answers beside them.

# %%
sampled = pretrained.query("texts == 'sampled'").pivot_table(
    index="step", columns="arm", values=["estimate", "accuracy"]
)
sampled.style.format("{:+.2f}", subset=["estimate"]).format("{:.0%}", subset=["accuracy"])

# %% [markdown]
# ## Watch it move
#
# A short fine-tuning of the shipped model `fast` on chains of thought, measured on the way. Sixty steps are the very beginning: the model forgets how
# to answer directly before it learns to think.

# %%
model = AutoModelForCausalLM.from_pretrained(MODELS["fast"])
tokenizer, folder = build_tokenizer(), Path(tempfile.mkdtemp())
problems = read_problems(str(PROBLEMS), 10)
measured = {}


def measure(step: int, loss: float = 0.0) -> None:
    if step in (0, 10, 25, 60):
        bridge = inversion.load_model(model.eval(), tokenizer=tokenizer)
        path = measure_run(bridge, problems, folder / f"step-{step}", generation=Generation(max_new_tokens=64))
        measured[step] = inversion.load_run(path)
        model.train()


measure(0)
losses = train(model, tokenizer, Training("chain", steps=60, batch_size=24, warmup=10), measure)

# %%
moved = inversion.trajectory(list(measured.values()), steps=list(measured))
ax = trajectory(moved, title="ten problems, one seed")

# %% [markdown]
# With ten problems the intervals are wide: that is what they are for. `inversion reproduce` does this with more problems, more steps, several seeds and
# the controls above; [docs/lineage.md](../docs/lineage.md) says what it found, and [docs/scaling.md](../docs/scaling.md) how to ask a real model.
