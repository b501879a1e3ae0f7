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
# # Attention heads: look, name, doubt, take out
#
# A picture of attention convinces at once, and that is its trouble: among hundreds of heads one
# always looks like what is sought. Here heads are looked at, scored, held against what chance and
# an untrained model give, and taken out to see whether anything is lost.

# %%
import os

import pandas as pd
import plotly.express as px
from scipy import stats

import lensbench as lb
from lensbench.attention.causal.ablation import ablated
from lensbench.attention.result import strongest

name = os.environ.get("LENSBENCH_NOTEBOOK_MODEL", "smollm2-135m")
n_prompts = int(os.environ.get("LENSBENCH_NOTEBOOK_PROMPTS", "24"))
model = lb.load_model(name)
sentence = lb.Prompt("cat", "The cat sat on the mat.")

# %% [markdown]
# ## Look
#
# One sentence, the head that gives most to the token before. *Plain* is the pattern; *moved*
# weighs each token by the length of what the head really takes from it, ||a v W_O|| (Kobayashi et
# al. 2020). Much plain attention goes to the first token, which many heads use as a place to rest.

# %%
seen = lb.attention(model, sentence, keep=["cat"])
best = strongest(seen.to_pandas()).set_index(["condition", "weighting", "score"])
previous = best.loc[("text", "plain", "previous_token")]
seen.plot_pattern(int(previous.block), int(previous["head"]))

# %%
first = seen.to_pandas().query("condition == 'text'").groupby("weighting").first_token.mean()
print(first.round(2))
seen.plot("first_token")

# %% [markdown]
# ## Score
#
# *Induction* is attention to the token that came after the last time (Olsson et al. 2022). It is
# read on random tokens that stand four times in a row, where nothing else says what comes next.

# %%
induction = best.loc[("repeated", "plain", "induction")]
block, copier = int(induction.block), int(induction["head"])
print(f"highest induction: {block}.{copier} at {induction.value:.2f}")
seen.plot("induction", condition="repeated")

# %% [markdown]
# ## Doubt
#
# The same scores where they mean nothing: each query's weights dealt out again among its keys
# (*random*), the tokens in another order (*shuffled*), weights drawn anew (*untrained*). The
# highest of many heads is high there too.

# %%
facts = [prompt for prompt in lb.load_prompts("facts").prompts if prompt.is_base][:n_prompts]
nulls = ["random", "shuffled", "untrained"]
doubted = lb.attention(model, facts, conditions=["text", *nulls], weightings="plain")
means = doubted.to_pandas().groupby(["condition", "block", "head"]).previous_token.mean()
means.groupby("condition").max().round(3)

# %%
highest = means.groupby("condition").max()
beyond = means.loc["text"] > highest[["random", "untrained"]].max()
print(f"above every head of random attention and of no training: {beyond.sum()} of {len(beyond)}")
print(f"the order of words does not matter to a previous-token head: {highest['shuffled']:.2f}")

# %% [markdown]
# `lensbench attention MODEL --prompts facts -o DIR` makes names of this, prompt by prompt, with
# false discoveries controlled over all heads and names.
#
# ## Take out
#
# What a head gives is replaced by what it gives on average, and the loss is measured again: once on
# the prompts as they are, once with each prompt standing twice in a row, where a copier predicts
# the second time. Every head of the block that holds the highest induction, with an interval over
# prompts: a name is not yet a cause.

# %%
heads = range(model.n_heads)
token_ids = [model.to_tokens(prompt.prompt)[0].tolist() for prompt in facts]
texts = {"once": token_ids, "twice": [[*ids, *ids] for ids in token_ids]}
lost = pd.DataFrame()
for stands, ids in texts.items():
    change = ablated(model, ids, [[(block, head)] for head in heads]).change  # [prompt, head]
    t = stats.t.ppf(0.975, len(change) - 1)
    own = {"nats": change.mean(axis=0), "half": t * stats.sem(change, axis=0), "stands": stands}
    lost = pd.concat([lost, pd.DataFrame(own).rename_axis("head").reset_index()])
title = f"block {block}: nats per token lost without each head (95 % interval over prompts)"
px.bar(lost, x="head", y="nats", color="stands", error_y="half", barmode="group", title=title)

# %%
twice = lost[lost.stands == "twice"].set_index("head").nats
print(f"missed most where text repeats itself: {block}.{twice.idxmax()}, {twice.max():.3f} nats")
print(f"highest induction: {block}.{copier}, {twice[copier]:.3f} nats")
