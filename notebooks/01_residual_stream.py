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
# # The residual stream of one prompt
#
# A transformer keeps one vector per token, the residual stream, and every block adds to it. Here we
# load a small model, watch that vector grow and turn, read it by hand, and check our hand against
# the gate.

# %%
import plotly.express as px
import torch

import lensbench as lb

model = lb.load_model("smollm2-135m")
model

# %% [markdown]
# ## What would it say if it stopped here?
#
# `logit_lens` reads every layer through the model's own final norm and head. It refuses to answer
# when the last layer does not reproduce the model.

# %%
prompt = lb.Prompt("germany", "The capital of Germany is", answer="Berlin", category="city")
result = lb.logit_lens(model, prompt)
result

# %%
table = result.to_pandas()
last = table[table.is_last]
last[["layer", "entropy_bits", "kl_bits", "answer_prob", "answer_rank", "top_tokens"]].tail(8)

# %% [markdown]
# ## How long is the vector, and where does it point?
#
# The norm grows with depth. The cosine between two layers says how far the direction has turned.

# %%
residuals = lb.residual_stream(model, "The capital of Germany is")
residuals.stream.shape  # [site, pos, d_model]: the embedding, then every block

# %%
norms = residuals.stream.norm(dim=-1)  # [site, pos]
px.line(norms.T.numpy(), labels={"index": "position", "value": "L2 norm"}).update_layout(
    title="Norm of the residual stream (one line per layer)", showlegend=False
)

# %%
at_last = torch.nn.functional.normalize(residuals.stream[:, -1], dim=-1)
cosines = at_last @ at_last.T  # [site, site]
px.imshow(cosines.numpy(), labels={"x": "layer", "y": "layer"}, title="Cosine between layers")

# %% [markdown]
# TransformerLens' own calls see the same tokens at the same positions: give them `to_tokens`.

# %%
_, cache = model.bridge.run_with_cache(model.to_tokens("The capital of Germany is"))
for site, vectors in zip(residuals.sites, residuals.stream, strict=True):
    assert torch.allclose(cache[site.hook][0], vectors, atol=1e-3), site
print(f"{len(residuals.sites)} sites, position for position")

# %% [markdown]
# ## The readout by hand
#
# Final norm, head, nothing else for this model: the same numbers as the model's own logits. Leave
# the norm out and they are not.

# %%
resid = residuals.stream[-1]  # after the last block
with torch.inference_mode():
    by_hand = model.bridge.ln_final(resid[None])[0] @ model.bridge.W_U
difference = (by_hand - residuals.logits[0]).abs().max().item()
assert difference < 1e-3, difference
print(f"largest difference to the model's own logits: {difference:.1e}")

# %%
token_ids = [model.tokenizer(text).input_ids for text in ("The capital of Germany is", "Hello you")]
for lens in ("final", "raw"):
    identity = lb.check_identities(model, token_ids, lens)[0]
    print(f"{identity.identity}: {identity.error:.1e} {identity.unit}, passed: {identity.passed}")

# %% [markdown]
# ## All positions at once
#
# Rows are layers, columns are the prompt's tokens; each cell shows the top token, more on hover.

# %%
result.plot(value="entropy_bits")
