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
# # Which layers move when the context is right?
#
# We ask a model some Python questions alone, with a text that answers them, and with another
# question's text of the same length. All three are traced: the mean residual vector of each
# prompt at each layer. Then we ask which layers change more for the right text than for the wrong
# one, with an interval and a test.

# %%
import csv
import os
import tempfile
from pathlib import Path

import plotly.express as px

from lensbench import Decoding, open_record
from lensbench.compare.correlation.record import correlate
from lensbench.compare.correlation.spec import CorrelationSpec
from lensbench.compare.correlation.suggest import suggested
from lensbench.prompts.sets import prompt_file
from lensbench.quantized.data.shipped import python_reference
from lensbench.quantized.generation.infer import run_inference
from lensbench.quantized.generation.spec import InferenceSpec
from lensbench.quantized.rag.documents import Document
from lensbench.quantized.rag.embedding import load_embedder
from lensbench.quantized.rag.index import create_index

name = os.environ.get("LENSBENCH_NOTEBOOK_MODEL", "smollm2-135m")
n_prompts = int(os.environ.get("LENSBENCH_NOTEBOOK_PROMPTS", "40"))
folder = Path(tempfile.mkdtemp())
folder.chmod(0o755)  # the index's database may run as another user

# %% [markdown]
# ## Prompts, and what to find for them
#
# The prompt set `python` ships with lensbench, and so does the reference that answers it.

# %%
with prompt_file("python").open(encoding="utf-8", newline="") as handle:
    rows = list(csv.DictReader(handle))[:n_prompts]
pairs = python_reference()
with create_index(folder / "index", load_embedder()) as index:
    index.add([Document(pair.id, f"{pair.question}\n{pair.response}") for pair in pairs])
    found = index.search([row["prompt"] for row in rows], top_k=1)
right = [hits[0].id == row["document_id"] for hits, row in zip(found, rows, strict=True)]
print(f"the right document comes first for {sum(right)} of {len(right)} prompts")

# %% [markdown]
# ## Three conditions, traced
#
# A control says what would pass for an effect: here the text that another prompt retrieved, cut to
# the same number of tokens. Where tokens merge across the cut none may give that number; then it is
# the nearest below, and the record says by how much.


# %%
def trace(condition: str, **changes) -> Path:
    spec = InferenceSpec(
        prompts=prompt_file("python"),
        out=folder / f"{condition}.csv",
        trace=folder / condition,
        decoding=Decoding(max_new_tokens=2),
        batch_size=8,
        limit=n_prompts,
        **changes,
    )
    return run_inference(f"{name}@32", spec).folder


plain = trace("plain")
rag = trace("rag", rag=str(folder / "index"))
shuffled = trace("shuffled", rag=str(folder / "index"), control="shuffled")
lengths = {
    run.name: open_record(run).table("responses").set_index("prompt_id")["n_prompt_tokens"]
    for run in (rag, shuffled)
}
shorter = lengths["rag"] - lengths["shuffled"]
print(f"as long in tokens: {sum(shorter == 0)} of {len(shorter)}; at most {max(shorter)} shorter")

# %% [markdown]
# ## The change, layer by layer
#
# A few dimensions of the residual stream are huge in every prompt and would drown the rest; the
# comparison is made with and without them.

# %%
outcome = correlate(
    CorrelationSpec(
        runs=(str(plain), str(rag)),
        controls=(str(shuffled),),
        out=folder / "correlation",
        spans=("prompt",),
        measures=("cosine", "pearson", "cka"),
        n_blocks=2,
        resamples=500,
    )
)
record = open_record(outcome.folder)
similarity = record.table("similarity")
shown = similarity.query("measure == 'cosine' and variant == 'without_massive'")
px.line(shown, x="layer", y="value", color="condition", title="Cosine to the bare prompt")

# %%
ranking = record.table("layer_ranking")
best = ranking.query("measure == 'cosine' and variant == 'without_massive'").sort_values("rank")
best[["layer", "control", "change", "low", "high", "p_adjusted"]].head()

# %% [markdown]
# ## A block to train
#
# The same comparison suggests the block of layers that changed most, and says how often the
# bootstrap picks the same one. `lensbench train --blocks auto:FILE` takes the file.

# %%
for (span, condition), path in suggested(outcome.folder).items():
    print(f"{condition}, {span} tokens: {path.read_text()[:400]}")

# %% [markdown]
# ## A run against itself
#
# Nothing may move.

# %%
same = correlate(
    CorrelationSpec(
        runs=(f"a={plain}", f"b={plain}"),
        out=folder / "same",
        spans=("prompt",),
        measures=("cosine",),
        resamples=100,
    )
)
similarity = open_record(same.folder).table("similarity")
values = similarity.query("variant == 'as_is'")["value"].dropna()
print(f"a run with itself: cosine 1 at all {len(values)} layers: {bool((values > 1 - 1e-9).all())}")
assert (values > 1 - 1e-9).all()
