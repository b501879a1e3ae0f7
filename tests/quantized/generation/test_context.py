"""Retrieved context: recorded with its place, and cut to what fits and no more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensbench.errors import RecordsError
from lensbench.quantized.generation.context import fit
from lensbench.quantized.generation.infer import run_inference
from lensbench.quantized.generation.spec import Decoding, InferenceSpec
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.quantized.rag.index import Hit
from tests.harness.adapted import adapted
from tests.harness.files import manifest, write_csv
from tests.harness.inference import responses, rows_of
from tests.harness.tiny import Case


class Shelf:
    """An index in memory: every question finds the same two documents."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def search(self, questions: Sequence[str], top_k: int) -> list[list[Hit]]:
        hits = [Hit(f"=doc{i}", text, 0.9 - i / 3, {}) for i, text in enumerate(self.texts)]
        return [hits[:top_k] for _ in questions]

    def facts(self) -> dict[str, Any]:
        return {"documents": len(self.texts)}


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def put(*texts: str) -> None:
        @contextmanager
        def open_index(where: str) -> Iterator[Shelf]:
            assert where == "index"
            yield Shelf(*texts)

        monkeypatch.setattr("lensbench.quantized.rag.index.open_index", open_index)

    return put


@pytest.mark.parametrize(
    ("texts", "is_cut"),
    [(("Berlin.", "Rome!"), False), (("Berlin.", "Rome and Italy. " * 20), True)],
    ids=["whole", "cut"],
)
def test_what_was_retrieved_is_recorded_with_its_place(
    model: AdaptedModel,
    spec: Callable[..., InferenceSpec],
    shelf: Callable[..., None],
    tmp_path: Path,
    texts: tuple[str, ...],
    is_cut: bool,
) -> None:
    shelf(*texts, "not wanted")
    said: list[str] = []
    path = write_csv(tmp_path / "p.csv", [{"id": "a", "prompt": "Rome"}])
    with_index = spec(prompts=path, rag="index", top_k=2, decoding=Decoding(2))
    outcome = run_inference(model, with_index, notify=said.append)
    (row,) = responses(outcome.folder).values()
    assert row["retrieved_ids"] == ["=doc0", "=doc1"]
    np.testing.assert_allclose(row["retrieved_scores"], [0.9, 0.9 - 1 / 3], rtol=1e-6)
    context = row["text"][row["context_start"] : row["context_end"]]
    whole = "\n\n".join(texts)
    assert whole.startswith(context)
    assert context
    assert (context != whole) is (row["context_tokens_cut"] > 0) is bool(said) is is_cut
    assert row["n_prompt_tokens"] <= model.n_ctx - 2
    (cells,) = rows_of(spec().out)
    assert json.loads(cells["retrieved_ids"]) == ["=doc0", "=doc1"]
    assert cells["context_start"] == str(row["context_start"])
    assert manifest(outcome.folder)["settings"]["rag"] == {"documents": 3}
    shelf("other")
    with pytest.raises(RecordsError, match=r"settings\.rag"):
        run_inference(model, with_index)


TEXT = "Paris is the capital of France. Grüße, 你好! People in Brazil speak Portuguese."


@pytest.mark.parametrize("name", ["llama", "gpt2", "llama3"])  # every kind of tokenizer
def test_context_is_cut_from_its_end_to_what_fits_and_no_more(
    name: str, tiny_case: Callable[[str], Case]
) -> None:
    tokenizer = adapted(tiny_case(name)).tokenizer
    offsets = tokenizer(TEXT, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    ends = [end for _, end in offsets]

    def size(context: str | None) -> int:
        return len(fit(tokenizer, "alpaca", "Where?", context, 10**9).token_ids)

    sizes = [size(TEXT[:end]) for end in ends]
    for room in range(size(None), sizes[-1] + 2):
        fitted = fit(tokenizer, "alpaca", "Where?", TEXT, room)
        assert len(fitted.token_ids) <= room
        if fitted.question.context is None:
            assert fitted.context_tokens_cut == len(ends)
            assert sizes[0] > room
            continue
        start, end = fitted.question.context
        kept = len(ends) - fitted.context_tokens_cut
        assert fitted.question.text[start:end] == TEXT[: ends[kept - 1]]
        assert kept == len(ends) or sizes[kept] > room, "one more token would have fitted"
