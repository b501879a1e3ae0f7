"""Whether two lens records can be compared, and which prompts they share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lensbench.errors import Problem
from lensbench.records.facts import same_tokenizer
from lensbench.records.lens.record import LensRecord

LENS: Literal["final"] = "final"  # the lens of the model's output: the one that is compared

_SHOWN = 5  # names in a message


def shared_prompts(a: LensRecord, b: LensRecord) -> pd.DataFrame:
    """The base prompts that both records measured, as the first has them, by prompt_id."""
    return a.base_prompts[a.base_prompts.index.isin(b.base_prompts.index)]


def by_layer(record: LensRecord, column: str, ids: pd.Index) -> pd.DataFrame:
    """A column as prompt x layer, in the order of `ids`; NaN where it is null."""
    return record.by_layer(column, ids, LENS).reindex(ids)


def mismatches(a: LensRecord, b: LensRecord, relative_depth: bool, context: bool) -> list[Problem]:
    """Everything that keeps the two from being compared."""
    if foreign := list(_imported(a, b)):
        return foreign
    return [
        *_layer_problems(a, b, relative_depth),
        *_lens_problems(a, b),
        *_prompt_problems(a, b, context),
        *_tokenizer_problems(a, b),
    ]


def _imported(a: LensRecord, b: LensRecord) -> Iterator[Problem]:
    """A record of another tool says too little of its tokens and lens to be set cell by cell."""
    for record in (a, b):
        if record.imported:
            what = "it was measured by another tool, so nobody knows that both were read alike"
            remedy = "See them side by side: lensbench report A B."
            yield Problem(str(record.folder), what, remedy)


def one_sided(a: LensRecord, b: LensRecord) -> list[Problem]:
    """Base prompts that only one record holds; they are skipped, and the rest is compared."""
    found = []
    for own, other in ((a, b), (b, a)):
        missing = own.base_prompts.index.difference(other.base_prompts.index, sort=False)
        if len(missing):
            what = f"{len(missing)} prompts are not in {other.folder}: {_few(missing)}"
            remedy = "Run both over the same prompts to compare them too."
            found.append(Problem(str(own.folder), what, remedy))
    return found


def _layer_problems(a: LensRecord, b: LensRecord, relative_depth: bool) -> Iterator[Problem]:
    where = f"{a.name} and {b.name}"
    if a.n_layers != b.n_layers and not relative_depth:
        what = f"they have {a.n_layers} and {b.n_layers} layers"
        what += ", so no layer of one is a layer of the other"
        yield Problem(where, what, "Compare them at equal shares of their depth: --relative-depth.")
    if a.n_layers == b.n_layers and relative_depth:
        what = f"both have {a.n_layers} layers, so depth needs no scale"
        yield Problem(where, what, "Leave --relative-depth out.")


def _lens_problems(a: LensRecord, b: LensRecord) -> Iterator[Problem]:
    for record in (a, b):
        if LENS not in record.settings["lenses"]:
            what = f"it was not read by the lens '{LENS}'"
            yield Problem(str(record.folder), what, "Run it again with that lens.")


def _prompt_problems(a: LensRecord, b: LensRecord, context: bool) -> Iterator[Problem]:
    where = f"{a.folder} and {b.folder}"
    ids = shared_prompts(a, b).index
    if not len(ids):
        what = f"they share no base prompt ({_prompt_set(a)}, {_prompt_set(b)})"
        yield Problem(where, what, "Run both over the same prompt set.")
        return
    ours, theirs = a.prompts.loc[ids], b.prompts.loc[ids]
    answers = ids[(ours["answer"].fillna("") != theirs["answer"].fillna("")).to_numpy()]
    if len(answers):
        what = f"{len(answers)} prompts of one id expect other answers: {_few(answers)}"
        yield Problem(where, what, "Give other questions other ids.")
    texts = ids[(ours["text"] != theirs["text"]).to_numpy()]
    if len(texts) and not context:
        what = f"{len(texts)} prompts of one id have other texts: {_few(texts)}"
        remedy = "If they are the same questions in another context, say --context."
        yield Problem(where, what, remedy)


def _tokenizer_problems(a: LensRecord, b: LensRecord) -> Iterator[Problem]:
    """Other tokenizer files may be the same tokenizer, saved again: then all they gave agrees."""
    if same_tokenizer(a.model, b.model):
        return
    where = f"{a.name} and {b.name}"
    remedy = "Their probabilities are of other tokens: compare them with `lensbench report A B`."
    if a.model["d_vocab"] != b.model["d_vocab"]:
        what = f"their vocabularies have {a.model['d_vocab']:,} and {b.model['d_vocab']:,} tokens"
        yield Problem(where, what, remedy)
        return
    ours, theirs = _tokens(a), _tokens(b)
    other = [token for token in ours.keys() & theirs.keys() if ours[token] != theirs[token]]
    texts = a.prompts.join(b.prompts, how="inner", lsuffix="_a", rsuffix="_b")
    texts = texts[texts["text_a"] == texts["text_b"]]
    pairs = zip(texts["token_ids_a"], texts["token_ids_b"], strict=True)
    if other or any(list(mine) != list(yours) for mine, yours in pairs):
        yield Problem(where, "they have different tokenizers", remedy)


def _tokens(record: LensRecord) -> dict[int, str]:
    """The text of every token that the record names."""
    rows = record.arrow_at_last(["top_ids", "top_tokens"], LENS)
    ids, tokens = (pc.list_flatten(rows[name]) for name in ("top_ids", "top_tokens"))
    each = pa.table({"id": ids, "token": tokens}).group_by(["id", "token"], use_threads=False)
    named = each.aggregate([])
    return dict(zip(named["id"].to_pylist(), named["token"].to_pylist(), strict=True))


def _prompt_set(record: LensRecord) -> str:
    return f"{len(record.base_prompts)} of {record.settings['prompts']}"


def _few(ids: pd.Index) -> str:
    rest = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(map(str, ids[:_SHOWN])) + rest
