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
# # From text to tokens to vectors to words
#
# What a language model does with one sentence, from its characters to the next word, each step
# with a number that can be checked. `lensbench walk` shows the same as one page.

# %%
import os

import numpy as np
import plotly.express as px

import lensbench as lb

name = os.environ.get("LENSBENCH_NOTEBOOK_MODEL", "smollm2-135m")
n_texts = int(os.environ.get("LENSBENCH_NOTEBOOK_TEXTS", "8"))
sentence = "The cat sat on the mat."

# %% [markdown]
# ## Text to tokens
#
# A tokenizer cuts text into pieces that it has a number for. What is frequent in what it was made
# from is one piece; the rest is spelt out, in the end byte by byte.

# %%
texts = [sentence, "I love AI", "I loooove AIs!!!", "मला AI आवडतो", "x = [i**2 for i in range(9)]"]
tokens = lb.tokens(texts, name)
tokens.to_pandas()[["text_id", "n_words", "n_tokens", "tokens_per_word", "n_lost"]]

# %%
for text_id, own in tokens.pieces.groupby("text_id", sort=False):
    print(text_id, " | ".join(own["shown"]))

# %% [markdown]
# ## Tokens to vectors
#
# Each number is a row of a table, learnt in training. Two rows of a model that writes say little
# about meaning; a model trained on pairs of sentences puts what means the same close together. How
# close is a property of that model: published cosines do not carry over.

# %%
model = lb.load_model(name)
walk = lb.walk(model, sentence)
print(walk)

# %%
encoder = os.environ.get("LENSBENCH_NOTEBOOK_ENCODER", "all-minilm-l6-v2")
words = ["dog", "puppy", "car", "king", "queen", "banana"]
embedded = lb.embed(words, encoder)
px.imshow(embedded.cosines, zmin=-1, zmax=1, color_continuous_scale="RdBu", text_auto=".2f")

# %% [markdown]
# ## Vectors to words
#
# Block by block, attention and MLP add to each token's vector. The lens asks the model's own head
# what it would say of every vector on the way; the last row is what the model does say.

# %%
lens = lb.logit_lens(model, sentence)
lens.plot()

# %%
stream = walk.numbers
logits = model.bridge(model.to_tokens(sentence))[0, -1].double()
own = np.exp(stream.logits.astype(float))  # float64: sums of 49,152 float32 numbers lose digits
difference = float(np.abs(own / own.sum() - logits.softmax(-1).detach().numpy()).max())
print(f"probabilities of the walk and of the model differ by at most {difference:.0e}")
px.line(
    {"attention": stream.attention_writes.norms[:, -1], "MLP": stream.mlp_writes.norms[:, -1]},
    labels={"index": "block", "value": "length of what is added at the last token"},
)

# %% [markdown]
# ## Words drawn
#
# From one pass over the prompt: what each setting makes of the next token's distribution. Entropy
# in bits; *effective* is the number of equally likely tokens that would be as uncertain.

# %%
prompt = "My favourite food is"
settings = ["greedy", "T=0.1", "T=0.7", "T=1.2", "top-p=0.9", "T=0.7 top-p=0.9"]
quantized = lb.load_quantized(f"{name}@32")
sampled = lb.sample(quantized, prompt, settings, texts=n_texts, max_new_tokens=20)
sampled.table[["setting", "entropy_bits", "effective_tokens", "n_kept", "kept_prob", "top_prob"]]

# %% [markdown]
# The same random numbers serve every setting, so that texts differ by the setting alone.

# %%
for setting, written in sampled.written.groupby("setting", sort=False):
    n = written["text"].nunique()
    print(f"{setting:16} {n} of {len(written)} differ: {written['text'].iloc[0]!r}")

# %% [markdown]
# ## Told or taught
#
# The same labelled sentences: a text encoder with a trained head (its own weights frozen), and the
# model above that is only asked. A difference counts where the intervals leave it one.

# %%
told = lb.classify(
    "reviews", encoder=encoder, causal=name, methods=["probe", "zero_shot"], seeds="0-2"
)
told.table

# %% [markdown]
# ## The whole way
#
# One page for a lecture: every number of every step, with its formula.

# %%
walk.save("walk.html", force=True)
