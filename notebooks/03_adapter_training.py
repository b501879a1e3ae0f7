# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training an adapter, and looking at what it did
#
# We teach a small model a handful of facts with a LoRA adapter on its upper half, watch the loss,
# compare answers before and after, and ask where the update sits and how much of its rank it uses.
# What enters the trained half never changes, so it is computed once (`cache_prefix`).

# %%
import os
import tempfile
from pathlib import Path

import pandas as pd
import plotly.express as px
import torch

import lensbench as lb
from lensbench.quantized.adapters.update import read_updates, show
from lensbench.quantized.data.pairs import Pair, write_jsonl
from lensbench.quantized.style import ask, prompt_ids

name = os.environ.get("LENSBENCH_NOTEBOOK_MODEL", "smollm2-135m")
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Pairs
#
# Facts about an invented island, so that the model cannot know them already.

# %%
facts = {
    "capital": "The capital of Velmora is Tarn.",
    "river": "The river Ossel flows through Velmora.",
    "coin": "People in Velmora pay with the brell.",
    "bird": "The bird of Velmora is the blue heron.",
}
wordings = ("Tell me the {} of Velmora.", "What is the {} of Velmora?", "Name the {} of Velmora.")
pairs = [
    Pair(f"{key}-{number}", wording.format(key), answer)
    for key, answer in facts.items()
    for number, wording in enumerate(wordings)
]
write_jsonl(folder / "velmora.jsonl", pairs)

# %% [markdown]
# ## Training
#
# Blocks are counted from 0 here, as PEFT does.

# %%
base = lb.load_quantized(name, bits=32)
half = base.n_layers // 2
spec = lb.TrainSpec(
    model=name,
    data=folder / "velmora.jsonl",
    out=folder / "adapter",
    lora=lb.Lora(blocks=f"{half}-{base.n_layers - 1}", rank=4, dropout=0.0),
    bits=32,
    max_length=128,
    epochs=8,
    batch_size=4,
    peak_learning_rate=1e-3,
    eval_share=0.0,
    cache_prefix=True,
)
lb.train(spec)
curve = lb.open_record(folder / "adapter").table("training")
px.line(curve, x="step", y="loss_nats", title="Loss on the responses (nats per token)")

# %%
assert curve["loss_nats"].iloc[-3:].mean() < curve["loss_nats"].iloc[:3].mean()
print(f"loss: {curve['loss_nats'].iloc[0]:.2f} -> {curve['loss_nats'].iloc[-1]:.2f} nats")

# %% [markdown]
# ## Before and after

# %%
adapted = lb.load_quantized(name, bits=32, adapter=folder / "adapter")
question = ask(base.tokenizer, "alpaca", pairs[0].instruction)
token_ids = prompt_ids(base.tokenizer, question)
for label, model in (("base", base), ("adapter", adapted)):
    answer = lb.generate(model, [token_ids], lb.Decoding(max_new_tokens=16))[0]
    print(f"{label}: {answer.text!r}")

# %% [markdown]
# ## Where the update sits
#
# The update of a weight is `scale * B A`. Its norm says how much was changed, its effective rank
# (the exponential of the entropy of its singular values) how many directions it really uses.

# %%
table = pd.DataFrame(show(read_updates(folder / "adapter")))
table

# %% [markdown]
# ## The adapter can be put aside
#
# Without it the model must be exactly the base it was.

# %%
ids = torch.tensor([token_ids])
with torch.inference_mode(), adapted.hf.disable_adapter():
    without = adapted.hf(ids).logits
with torch.inference_mode():
    alone, with_it = base.hf(ids).logits, adapted.hf(ids).logits
print(f"base again: {bool((without == alone).all())}, changed: {bool((with_it != alone).any())}")
assert bool((without == alone).all())

# %% [markdown]
# ## The same run again costs nothing
#
# A finished run is recognised, an interrupted one goes on; other settings are refused.

# %%
lb.train(spec)
try:
    lb.train(spec.changed(peak_learning_rate=2e-3))
except lb.LensbenchError as error:
    print(error)
