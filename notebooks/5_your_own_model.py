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
# # 5. Your own model
#
# Everything so far used models that come with the package. Any causal language model whose attention has q, k, v and o projections can be measured: Llama, Qwen,
# Gemma, Mistral, GPT-2 and some thirty more ([docs/architectures.md](../docs/architectures.md)).
#
# To run this notebook without a download, the next cell makes a tiny Llama with random weights and a chat template, in the format in which models are shared. **For a real model
# skip it and set `source` to a folder or a hub id**, such as `"Qwen/Qwen2.5-0.5B-Instruct"`.

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import inversion
from inversion.demo import MODELS
from inversion.measure import Measurement, measure_run
from inversion.plots import PAGE_INCHES, layer_heat_map, style
from inversion.probes.estimate import estimate_memory
from inversion.report import write_report
from inversion.responses import Generation, read_problems

folder = Path(tempfile.mkdtemp())
source = folder / "tiny-chat"

# %%
tokenizer = AutoTokenizer.from_pretrained(MODELS["slow"])
tokenizer.chat_template = (
    "{% for message in messages %}{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}\n{% endif %}"
)
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=len(tokenizer),
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    eos_token_id=tokenizer.eos_token_id,
    pad_token_id=tokenizer.pad_token_id,
)
LlamaForCausalLM(config).save_pretrained(source)
_ = tokenizer.save_pretrained(source)
# %% [markdown]
# ## Load it
#
# Weights are read from safetensors only, and code that comes with a checkpoint is not run unless you pass `trust_remote_code=True`. `device="auto"` takes a GPU where there is one.
# `bfloat16` halves the memory and costs some percent of accuracy in the norms ([docs/numerics.md](../docs/numerics.md)).

# %%
model = inversion.load_model(source, device="auto", dtype="float32")
print(f"64 tokens of a response of 2,048: about {estimate_memory(model, length=2048, targets=64) / 1e6:,.0f} MB")

# %% [markdown]
# ## Prompts, with the model's chat template
#
# Chat models expect their own frame around a question. Apply the template once and measure the texts as they stand.
# A response that you already have goes into the `response` column and is measured as it is; where there is none, the model writes one.

# %%
rows = []
for a, b in [(3, 4), (20, 6), (5, 9), (7, 8), (12, 3), (41, 10)]:
    chat = [{"role": "user", "content": f"What is {a} + {b}?"}]
    prompt = model.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    response = f"<think>\nSo {a} + {b} is {a + b}\nThen {a + b} is the sum\n</think>\n<answer>{a + b}</answer>"
    rows.append({"prompt": prompt, "response": response, "answer": str(a + b)})

prompts = folder / "prompts.jsonl"
prompts.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
problems = read_problems(str(prompts))
problems[0].prompt

# %% [markdown]
# On the command line this is `inversion probe --model SOURCE --prompts prompts.jsonl --out runs/mine`.
#
# ## Measure
#
# `targets=40` would measure 40 tokens of each response, drawn evenly over entropy, and record what each stands for: the way to afford long responses. Here
# they are short, so all are measured. A run that is interrupted goes on where it stopped.

# %%
path = measure_run(
    model,
    problems,
    folder / "run",
    measurement=Measurement(norms=("nuclear", "frobenius"), targets=None),
    generation=Generation(max_new_tokens=64),
)
run = inversion.load_run(path)
inversion.correlate(run)

# %% [markdown]
# These weights are random and the texts all of one kind, so whatever the number is, it is about nothing that was learnt.
#
# ## Thinking and answering
#
# Reasoning models write their thoughts between tags. `segments` takes the two parts apart; pass `tags=("<seed:think>", "</seed:think>")` or whatever your model uses.

# %%
inversion.segments(run, by="think", tags=("<think>", "</think>"))

# %%
inversion.show_tokens(run, by="nuclear", layer=-1, projection="v", response=0)

# %%
with style():
    figure, ax = plt.subplots(figsize=(PAGE_INCHES * 0.6, 2.2))
    layer_heat_map(inversion.layer_map(run), ax, title="tiny-chat, random weights")

# %% [markdown]
# ## A page to share
#
# `inversion report` writes one HTML file with the summary, the figures and a reader for single responses. It loads nothing from elsewhere.

# %%
page = write_report([path], folder / "report.html")
print(f"{page.name}, {page.stat().st_size / 1e6:.1f} MB")
