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
# # A lens that can read: fit one, read with it, break it
#
# The logit lens shows each layer to the model's own head as if it were the last layer. On some
# models that head is nearly blind until the end, and sure of itself all the same. A *linear lens*
# (Din et al. 2023) translates first: a matrix and a shift for each layer, found by ridge
# regression from that layer's states to the last one's. Here one is fitted, measured on text that
# it has not seen, read with, and then broken on purpose.

# %%
import os
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import plotly.express as px

import lensbench as lb
from lensbench.errors import RecordsError
from lensbench.lens.fitted.affine import Affine
from lensbench.lens.fitted.artifact import open_lens

name = os.environ.get("LENSBENCH_NOTEBOOK_MODEL", "smollm2-135m")
n_tokens = int(os.environ.get("LENSBENCH_NOTEBOOK_TOKENS", "6000"))
folder = Path(tempfile.mkdtemp())
model = lb.load_model(name)
prompt = lb.Prompt("germany", "The capital of Germany is", answer="Berlin")

# %% [markdown]
# ## What the head reads on its own
#
# KL(model || lens) is how many bits the lens is away from what the model says in the end; entropy
# is how unsure the lens is. Far away and sure is the worst of both.

# %%
plain = lb.logit_lens(model, prompt, positions="last").to_pandas()
plain[["layer", "depth", "top_tokens", "entropy_bits", "kl_bits", "answer_rank"]]

# %% [markdown]
# ## Fit
#
# The corpus is what the installed Python says about itself, so nothing is downloaded. Interrupted
# and run again, the fit goes on. 6,000 tokens are few: `lensbench fit` takes 30,000.

# %%
linear = folder / "linear"
lb.fit_lens(lb.FitSpec(name, tokens=n_tokens), linear)
record = lb.open_record(linear)
quality = record.table("fit_quality")
px.line(quality, x="depth", y="kl_bits", color="reading", title="KL(model || lens), unseen text")

# %% [markdown]
# Every curve but *final* (the logit lens) and *fitted* is a control. *Calibration* is the best
# single number and shift, which turn nothing; *shuffled* is the same fit to the targets of other
# tokens, where there is nothing to find. A fitted lens reads only what it gains beyond them.

# %%
middle = quality[quality.layer == model.n_layers // 2].set_index("reading")
print(middle[["kl_bits", "kl_bits_low", "kl_bits_high"]].round(2))
nearer = bool(middle.kl_bits["fitted"] < middle.kl_bits["final"])
print(f"nearer to the model than the logit lens at half depth: {nearer}")

# %% [markdown]
# ## Read with it
#
# Any place that takes a lens by name takes a lens' folder. Both are read from one forward pass; at
# the last layer both are the model, which is checked.

# %%
both = lb.logit_lens(model, prompt, lens=["final", linear], positions="last").to_pandas()
both.pivot(index="layer", columns="lens", values=["answer_rank", "kl_bits"])

# %%
texts = ["The capital of France is", "The chemical symbol of gold is", "The opposite of hot is"]
read = lb.logit_lens(model, texts, lens=["final", linear], positions="last").to_pandas()
middle = read[read.layer == model.n_layers // 2]
middle.assign(says=middle.top_tokens.str[0]).pivot(index="prompt_id", columns="lens", values="says")

# %% [markdown]
# ## Break it
#
# A lens is a file, and files get mixed up. Each of these would give numbers that look like others.

# %%
altered = folder / "altered"
shutil.copytree(linear, altered)
data = bytearray((altered / "lens.safetensors").read_bytes())
data[-1] ^= 1
(altered / "lens.safetensors").write_bytes(data)
try:
    lb.logit_lens(model, prompt, lens=str(altered))
except RecordsError as error:
    print("one bit of the file:", error)

# %% [markdown]
# Read with the map of another layer, the lens is still a matrix and a shift, and its reading is
# still a distribution. Only the distance from the model says that it is no translation of this
# layer.

# %%
maps = open_lens(str(linear), model.base).maps
wrong = Affine(model, {layer: maps[max(maps) - layer] for layer in maps}, "wrong way round")
stream = lb.residual_stream(model, prompt.prompt)
rows = []
for lens, of in {"right": Affine(model, maps, "right"), "wrong way round": wrong}.items():
    for site in stream.sites:
        p = stream.logits[0, -1].double().log_softmax(-1)
        q = of.logits(stream.at(site)[-1:], site)[0].double().log_softmax(-1)
        kl_bits = float((p.exp() * (p - q)).sum()) / 0.6931471805599453
        rows.append({"lens": lens, "layer": site.layer, "kl_bits": kl_bits})
broken = pd.DataFrame(rows)
px.line(broken, x="layer", y="kl_bits", color="lens", title="The right maps at the wrong layers")

# %%
mean = broken[broken.layer < model.n_layers].groupby("lens").kl_bits.mean()
print(f"worse at the wrong layers: {bool(mean['wrong way round'] > mean['right'])}")
shutil.rmtree(folder)
