"""A comparison of tokenizers as a record: one job a model, and what follows over languages.

No weights are loaded, so that models need no turns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from lensbench.costs.planned import Planned, uncounted
from lensbench.progress import Notify, Watch, ignore
from lensbench.records.engine import Job, Outcome, Work, make
from lensbench.records.parts import Part, Parts
from lensbench.records.recording import Finished, Recording, Request
from lensbench.records.schema import TABLES
from lensbench.records.store import RecordStore
from lensbench.studies.specs.tokens import TokensSpec
from lensbench.tokenisation.counts import fates, piece_rows, script_counts, text_counts
from lensbench.tokenisation.gaps import cost_rows, fate_rows, gap_rows
from lensbench.tokenisation.result import texts_and_tokenizers
from lensbench.tokenisation.texts import Text, parallel_texts
from lensbench.tokenisation.tokenizer import Tokenizer

NAME = "tokens"  # of the record: it is of several models


@dataclass(frozen=True)
class Reading:
    """What is read, and by whom."""

    tokenizers: Sequence[Tokenizer]
    texts: Sequence[Text]


def run(
    spec: TokensSpec, out: Path | str, progress: Watch = ignore, notify: Notify = ignore
) -> Outcome:
    """Compare the tokenizers of `spec.models` into `out`; again to go on after an interruption.

    Raises:
        InputProblems: texts that are empty or no text, models that are unknown, not here, without a
            tokenizer, or given twice.
        RecordsError: the folder holds another record, or the disk is full.
    """
    own, tokenizers, facts = texts_and_tokenizers(spec.texts, spec.models)
    texts = [*own, *parallel_texts()]
    known = {tokenizer.name: fact for tokenizer, fact in zip(tokenizers, facts, strict=True)}
    model = {"name": NAME, "tokenizers": known}
    settings = spec.settings() | {"texts_sha256": _sha256(texts)}
    store = RecordStore(Path(out), NAME, "tokens")

    def prepare(record: Recording) -> Work[Reading, int]:
        record.begin(model)

        def finish(parts: Parts) -> Finished:
            tables = _over_languages(parts, texts, known, spec)
            rows = [{"text_id": text.id, "text": text.text} for text in own]
            return Finished(
                parts.problems, {**tables, "token_texts": TABLES["token_texts"].of_rows(rows)}
            )

        items = [range(len(tokenizers))]
        return Work(Reading(tokenizers, texts), read_texts, items, finish, unit="models")

    problems = make(Request(store, settings, model), prepare, progress)
    return Outcome([store.folder], problems=problems)


def plan(spec: TokensSpec, out: Path | str) -> Iterator[Planned]:
    """What `run` would make into `out`. Raises InputProblems as it does."""
    own, tokenizers, _ = texts_and_tokenizers(spec.texts, spec.models)
    n_texts = len(own) + len(parallel_texts())
    why = f"no model is run: {len(tokenizers)} tokenizers read {n_texts:,} texts each"
    yield uncounted(NAME, Path(out), why)


def read_texts(reading: Reading, job: Job[int]) -> Part:
    """All texts by one tokenizer."""
    tokenizer = reading.tokenizers[job.item]
    rows: dict[str, list[dict[str, Any]]] = {"tokens": [], "token_scripts": [], "pieces": []}
    for text in reading.texts:
        pieces = tokenizer.pieces(text.text)
        own = fates(text.text, pieces)
        rows["tokens"].append(text_counts(tokenizer, text, pieces, own))
        rows["token_scripts"] += script_counts(tokenizer, text, own)
        if text.language is None:
            rows["pieces"] += piece_rows(tokenizer, text, pieces)
    return Part({name: TABLES[name].of_rows(made) for name, made in rows.items()})


def _over_languages(
    parts: Parts, texts: Sequence[Text], facts: dict[str, Any], spec: TokensSpec
) -> dict[str, pa.Table]:
    counts, scripts = (_parallel(parts.table(name)) for name in ("tokens", "token_scripts"))
    called = {text.language: text.name for text in texts if text.language}
    gaps = [row | {"name": called.get(row["language"])} for row in gap_rows(counts)]
    costs = cost_rows(counts, facts, spec.page_words, spec.price)
    return {
        "gaps": TABLES["gaps"].of_rows(gaps),
        "script_fates": TABLES["script_fates"].of_rows(fate_rows(scripts)),
        "token_costs": TABLES["token_costs"].of_rows(costs),
    }


def _parallel(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame[frame["language"].notna()]


def _sha256(texts: Sequence[Text]) -> str:
    """What was read."""
    said = json.dumps([[text.id, text.text] for text in texts])
    return hashlib.sha256(said.encode()).hexdigest()
