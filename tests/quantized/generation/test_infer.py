"""`infer`: the same files whatever interrupts it, every row once, and nothing lost on the way."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lensbench.errors import InputProblems, RecordsError
from lensbench.escape import csv_text
from lensbench.quantized.generation import infer as inference
from lensbench.quantized.generation.batching import (
    default_batch_size,
    in_pieces,
    is_out_of_memory,
    plan,
    row_bytes,
)
from lensbench.quantized.generation.context import fit
from lensbench.quantized.generation.generate import Decoding, Generation, generate
from lensbench.quantized.generation.infer import InferenceSpec, ModelChoice, Progress, run_inference
from lensbench.quantized.generation.questions import Asked
from lensbench.quantized.generation.responses_csv import ResponsesCsv
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.quantized.rag.index import Hit
from lensbench.records.schema import KINDS, RESPONSES, TABLES
from tests.harness.adapted import adapted, alone
from tests.harness.program import Program
from tests.harness.tiny import SENTENCES, Case

N_NEW = 6
GREEDY = Decoding(max_new_tokens=N_NEW)
WARM = Decoding(max_new_tokens=N_NEW, temperature=1.3, top_p=0.95, seed=5)
WORDS = [sentence.split() for sentence in SENTENCES]
# Prompts of many lengths, in no order of length.
PROMPTS = {f"q{i:02d}": " ".join(WORDS[i % 6][: 2 + (5 * i) % 7]) for i in range(16)}


def write_prompts(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"id": key, "prompt": text, "topic": f"-{key}"} for key, text in PROMPTS.items()]
    return write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.csv", rows)


@pytest.fixture(scope="module")
def model(llama: Case) -> AdaptedModel:
    """Two tokens end a response, so that rows of a batch stop at different times."""
    found = adapted(llama)
    some = [alone(found, found.tokenizer(text).input_ids, N_NEW) for text in PROMPTS.values()]
    found.base.generation_config.eos_token_id = [some[0][2], some[3][4]]
    return found


@pytest.fixture
def spec(prompts: Path, tmp_path: Path) -> Callable[..., InferenceSpec]:
    def make(**changes: Any) -> InferenceSpec:
        settings = {"prompts": prompts, "out": tmp_path / "out.csv", "decoding": GREEDY}
        return InferenceSpec(**(settings | {"batch_size": 3, "style": "none"} | changes))

    return make


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return [{k: csv_text(v) for k, v in row.items()} for row in csv.DictReader(handle)]


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def responses(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["prompt_id"]: row for row in table(folder, "responses")}


# --- one undisturbed run ------------------------------------------------------------------------


def test_the_csv_holds_what_hugging_face_says_to_each_prompt_alone(
    model: AdaptedModel, spec: Callable[..., InferenceSpec]
) -> None:
    outcome = run_inference(model, spec())
    assert outcome.ok
    found = rows_of(outcome.csv)
    assert [row["id"] for row in found] == list(PROMPTS)
    ends = model.base.generation_config.eos_token_id
    reasons = set()
    for row in found:
        prompt = model.tokenizer(PROMPTS[row["id"]]).input_ids
        expected = alone(model, prompt, N_NEW)
        assert row["response"] == model.tokenizer.decode(expected, skip_special_tokens=True)
        assert row["n_generated_tokens"] == str(len(expected))
        assert row["n_prompt_tokens"] == str(len(prompt))
        assert row["finish_reason"] == ("stop" if expected[-1] in ends else "length")
        reasons.add(row["finish_reason"])
        assert row["prompt"] == PROMPTS[row["id"]]
    assert reasons == {"stop", "length"}
    header = outcome.csv.read_text().splitlines()[0]
    counts = "n_prompt_tokens,n_generated_tokens"
    assert header == f"id,prompt,response,finish_reason,{counts},topic"


def test_further_columns_pass_through_untouched(
    model: AdaptedModel, spec: Callable[..., InferenceSpec]
) -> None:
    with run_inference(model, spec()).csv.open(newline="") as handle:
        assert [row["topic"] for row in csv.DictReader(handle)] == [f"-{key}" for key in PROMPTS]


@pytest.mark.parametrize("traced", [False, True])
def test_the_record_follows_its_schema(
    model: AdaptedModel, spec: Callable[..., InferenceSpec], tmp_path: Path, traced: bool
) -> None:
    outcome = run_inference(model, spec(trace=tmp_path / "trace" if traced else None))
    kind = "trace" if traced else "inference"
    assert outcome.folder == tmp_path / ("trace" if traced else "out.records")
    made = manifest(outcome.folder)
    assert (made["kind"], made["status"], made["resumed_batches"]) == (kind, "complete", 0)
    assert made["settings"]["batch_size"] == 3
    assert made["settings"]["style"] == "none"
    files = {path.stem for path in outcome.folder.glob("*.parquet")}
    assert files == set(KINDS[kind])
    for name in files:
        assert pq.read_schema(outcome.folder / f"{name}.parquet").equals(TABLES[name])
    assert not (outcome.folder / "parts").exists()


def test_rows_say_what_they_were_computed_with(
    model: AdaptedModel, spec: Callable[..., InferenceSpec]
) -> None:
    found = responses(run_inference(model, spec()).folder)
    assert list(found) == list(PROMPTS)
    for row in found.values():
        together = row["batch_ids"]
        assert row["prompt_id"] in together
        assert len(together) <= 3
        assert all(found[other]["batch"] == row["batch"] for other in together)
        assert row["seed"] is None
        assert row["prompt_ids"] == model.tokenizer(row["text"]).input_ids
        assert len(row["token_ids"]) == len(row["entropy_bits"]) == row["n_generated_tokens"]
    lengths = [(row["batch"], row["n_prompt_tokens"]) for row in found.values()]
    assert [n for _, n in sorted(lengths)] == sorted(n for _, n in lengths), "sorted by length"


def test_a_chat_template_is_the_default_where_there_is_one(
    llama: Case, spec: Callable[..., InferenceSpec]
) -> None:
    chatty = adapted(llama)
    chatty.tokenizer.chat_template = "{{ '<' + messages[0]['content'] + '>' }}"
    folder = run_inference(chatty, spec(style=None)).folder
    assert manifest(folder)["settings"]["style"] == "chat"
    for row in responses(folder).values():
        assert row["text"] == f"<{row['prompt']}>"
        assert row["style"] == "chat"


@pytest.mark.parametrize("decoding", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_responses_do_not_depend_on_batches(
    model: AdaptedModel, spec: Callable[..., InferenceSpec], tmp_path: Path, decoding: Decoding
) -> None:
    made = [
        responses(run_inference(model, spec(out=path, batch_size=n, decoding=decoding)).folder)
        for n in (1, 5, 16)
        if (path := tmp_path / f"{n}.csv")
    ]
    ids = [{key: row["token_ids"] for key, row in found.items()} for found in made]
    assert ids[0] == ids[1] == ids[2]
    seeds = [row["seed"] for row in made[0].values()]
    assert len(set(seeds)) == (16 if decoding.sampled else 1)


def test_only_so_many_and_with_pauses(
    model: AdaptedModel, spec: Callable[..., InferenceSpec]
) -> None:
    steps: list[Progress] = []
    started = time.monotonic()
    limited = spec(limit=5, batch_size=2, pause_s=0.3)
    assert run_inference(model, limited, progress=steps.append).n_responses == 5
    assert time.monotonic() - started > 2 * 0.3
    assert [(step.n_done, step.n_total) for step in steps] == [(0, 5), (2, 5), (4, 5), (5, 5)]
    found = responses(limited.folder)
    assert list(found) == list(PROMPTS)[:5]
    assert steps[-1].n_new_tokens == sum(row["n_generated_tokens"] for row in found.values())


# --- the trace ----------------------------------------------------------------------------------


def test_the_trace_is_that_of_the_hidden_states(
    llama: Case, model: AdaptedModel, spec: Callable[..., InferenceSpec], tmp_path: Path
) -> None:
    folder = run_inference(model, spec(trace=tmp_path / "trace", trace_layers=(0, 2))).folder
    asked = responses(folder)
    cells = {
        (row["prompt_id"], row["phase"], row["layer"]): row for row in table(folder, "activations")
    }
    index = {(row["prompt_id"], row["layer"]): row for row in table(folder, "residual_index")}
    n_layers = model.n_layers
    assert len(cells) == len(PROMPTS) * 2 * (n_layers + 1)
    assert len(index) == len(PROMPTS) * 2
    plain = llama.hf
    for item, row in asked.items():
        n_prompt = row["n_prompt_tokens"]
        whole = torch.tensor([row["prompt_ids"] + row["token_ids"]])
        with torch.no_grad():
            states = plain(whole, output_hidden_states=True).hidden_states
        for layer in range(n_layers):  # Hugging Face norms the last one; test_trace.py has it
            state = states[layer][0].double().numpy()
            for phase, part in (("prompt", state[:n_prompt]), ("generated", state[n_prompt:])):
                cell = cells[item, phase, layer]
                np.testing.assert_allclose(cell["mean"], part.mean(0), rtol=1e-4, atol=1e-4)
                norm = np.linalg.norm(part, axis=-1).mean()
                np.testing.assert_allclose(cell["mean_norm"], norm, rtol=1e-4)
                assert cell["n_tokens"] == len(part)
                assert cell["depth"] == layer / n_layers
                assert cell["point"] == ("embed" if layer == 0 else "resid_post")
        for layer in (0, 2):
            place = index[item, layer]
            kept = load_file(folder / place["file"])[place["tensor"]]
            length = place["n_prompt_tokens"] + place["n_generated_tokens"]
            rows = kept[place["first_row"] : place["first_row"] + length]
            np.testing.assert_allclose(rows, states[layer][0], rtol=1e-3, atol=1e-4)


def test_a_traced_run_answers_as_an_untraced_one(
    model: AdaptedModel, spec: Callable[..., InferenceSpec], tmp_path: Path
) -> None:
    plain = run_inference(model, spec())
    traced = run_inference(model, spec(out=tmp_path / "t.csv", trace=tmp_path / "trace"))
    assert table(plain.folder, "responses") == table(traced.folder, "responses")
    assert plain.csv.read_bytes() == traced.csv.read_bytes()


def test_layers_that_do_not_exist_are_refused(
    model: AdaptedModel, spec: Callable[..., InferenceSpec], tmp_path: Path
) -> None:
    with pytest.raises(InputProblems, match="no layer 4, 9"):
        run_inference(model, spec(trace=tmp_path / "trace", trace_layers=(0, 4, 9)))


# --- memory -------------------------------------------------------------------------------------


@contextmanager
def little_memory(
    monkeypatch: pytest.MonkeyPatch, fits: Callable[[Sequence[Sequence[int]]], bool]
) -> Iterator[list[int]]:
    """generate() runs out of memory on batches that do not fit; yields the sizes it was given."""
    sizes: list[int] = []

    def limited(model: Any, prompts: Any, *rest: Any) -> list[Generation]:
        sizes.append(len(prompts))
        if not fits(prompts):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return generate(model, prompts, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(inference, "generate", limited)
        yield sizes


def test_batches_are_halved_when_memory_runs_out(
    model: AdaptedModel,
    spec: Callable[..., InferenceSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = responses(run_inference(model, spec(batch_size=8, decoding=WARM)).folder)
    said: list[str] = []
    tight = spec(out=tmp_path / "tight.csv", batch_size=8, decoding=WARM, trace=tmp_path / "trace")
    with little_memory(monkeypatch, lambda prompts: len(prompts) <= 3) as sizes:
        outcome = run_inference(model, tight, notify=said.append)
    assert outcome.ok
    assert sizes == [8, 4, *[2] * 4, *[2] * 4], "the limit that was found is kept"
    assert said == ["memory ran out: from here on at most 2 prompts at a time"]
    found = responses(outcome.folder)
    assert {len(row["batch_ids"]) for row in found.values()} == {2}
    for item, row in found.items():
        assert row["token_ids"] == whole[item]["token_ids"]
        assert row["batch"] == whole[item]["batch"], "the plan stays"
    assert len(table(outcome.folder, "activations")) == 16 * 2 * 4


def test_a_resumed_run_keeps_the_limit_that_was_found(
    model: AdaptedModel, spec: Callable[..., InferenceSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(now: Progress) -> None:
        if now.n_done == 4:
            raise KeyboardInterrupt

    with (
        little_memory(monkeypatch, lambda prompts: len(prompts) <= 1),
        pytest.raises(KeyboardInterrupt),
    ):
        run_inference(model, spec(batch_size=4), progress=stop)
    with little_memory(monkeypatch, lambda prompts: True) as sizes:
        run_inference(model, spec(batch_size=4))
    assert sizes == [1] * 12


def test_a_prompt_that_does_not_fit_even_alone_is_left_out(
    model: AdaptedModel, spec: Callable[..., InferenceSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = {key: len(model.tokenizer(text).input_ids) for key, text in PROMPTS.items()}
    longest = max(lengths.values())
    too_long = {key for key, length in lengths.items() if length == longest}

    def fits(prompts: Sequence[Sequence[int]]) -> bool:
        return max(map(len, prompts)) < longest

    with little_memory(monkeypatch, fits):
        outcome = run_inference(model, spec(batch_size=8))
    assert {problem.prompt_id for problem in outcome.problems} == too_long
    assert all("memory ran out on it alone" in str(problem) for problem in outcome.problems)
    assert set(responses(outcome.folder)) == set(PROMPTS) - too_long
    assert {row["id"] for row in rows_of(outcome.csv)} == set(PROMPTS) - too_long


def test_the_allocators_own_errors_are_recognised_and_others_are_not() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**17)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        in_pieces([1, 2], 2, lambda piece: torch.ones(2, 3) @ torch.ones(2, 3))


@settings(max_examples=10)
@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 12), st.integers(1, 30))
def test_every_item_goes_through_once_or_is_too_big(
    sizes: list[int], limit: int, room: int
) -> None:
    """Items of given sizes, `room` for all of a piece."""

    def work(piece: Sequence[int]) -> list[int]:
        if sum(piece) > room:
            raise MemoryError
        return list(piece)

    pieces = in_pieces(sizes, limit, work)
    done = [item for _, result in pieces.done for item in result]
    assert sorted(done + pieces.too_big) == sorted(sizes)
    assert done == [item for item in sizes if item <= room]
    assert all(item > room for item in pieces.too_big)
    assert 1 <= pieces.limit <= limit
    assert all(len(piece) <= limit for piece, _ in pieces.done)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 12))
def test_a_plan_has_every_prompt_once_by_length(lengths: list[int], size: int) -> None:
    batches = plan(lengths, size)
    flat = [item for batch in batches for item in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[item] for item in flat] == sorted(lengths)
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(batches)


def test_the_memory_of_a_row_covers_its_cache(family: Case) -> None:
    """Against the bytes of the cache that Hugging Face makes."""
    model = adapted(family)
    prompt = model.tokenizer(SENTENCES[0]).input_ids
    with torch.no_grad():
        cache = model.base(torch.tensor([prompt]), use_cache=True).past_key_values
    held = sum(
        tensor.nbytes
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
        if not getattr(layer, "is_sliding", False)
    )
    full = [layer for layer in cache.layers if not getattr(layer, "is_sliding", False)]
    each = held / max(len(full), 1) / len(prompt)
    grown = row_bytes(model, 100, 60) - row_bytes(model, 100, 50)
    assert not full or grown == each * model.n_layers * 10
    assert row_bytes(model, 10, 0) > 0


def test_the_default_batch_size_is_between_one_and_the_cap(model: AdaptedModel) -> None:
    assert default_batch_size(model, 10, 10) == 24
    assert default_batch_size(model, 10**12, 10) == 1


# --- bad input ----------------------------------------------------------------------------------


def test_bad_rows_are_named_and_the_rest_is_answered(
    model: AdaptedModel, spec: Callable[..., InferenceSpec], tmp_path: Path
) -> None:
    good = {"id": "good", "prompt": "Rome"}
    rows = [
        good,
        {"id": "", "prompt": "no id"},
        {"id": "good", "prompt": "again"},
        {"id": "empty", "prompt": "  "},
        {"id": "long", "prompt": "Germany France Italy Rome Paris Berlin " * 12},
        {"id": "last", "prompt": "Berlin"},
    ]
    path = write_prompts(tmp_path / "bad.csv", rows)
    outcome = run_inference(model, spec(prompts=path))
    assert [row["id"] for row in rows_of(outcome.csv)] == ["good", "last"]
    said = {(problem.where, problem.prompt_id) for problem in outcome.problems}
    expected = {3: None, 4: "good", 5: "empty", 6: "long"}
    assert said == {(f"bad.csv, row {row}", item) for row, item in expected.items()}
    assert "window of 64" in str(outcome.problems[-1])
    assert manifest(outcome.folder)["problems"] == 4
    assert [row["prompt_id"] for row in table(outcome.folder, "problems")] == [*expected.values()]


def test_a_prompt_of_exactly_the_window_is_answered(
    model: AdaptedModel, spec: Callable[..., InferenceSpec], tmp_path: Path
) -> None:
    words = "Rome"
    while len(model.tokenizer(words).input_ids) < model.n_ctx - N_NEW:
        words += " Rome"
    assert len(model.tokenizer(words).input_ids) == model.n_ctx - N_NEW
    rows = [{"id": "fits", "prompt": words}, {"id": "not", "prompt": words + " Rome"}]
    outcome = run_inference(model, spec(prompts=write_prompts(tmp_path / "p.csv", rows)))
    assert list(responses(outcome.folder)) == ["fits"]
    assert [problem.prompt_id for problem in outcome.problems] == ["not"]


def test_a_run_in_which_nothing_fits_is_a_complete_record_of_problems(
    model: AdaptedModel, spec: Callable[..., InferenceSpec], tmp_path: Path
) -> None:
    rows = [{"id": "long", "prompt": "Rome Berlin " * 60}]
    path = write_prompts(tmp_path / "p.csv", rows)
    outcome = run_inference(model, spec(prompts=path, trace=tmp_path / "trace"))
    assert outcome.n_responses == 0
    assert len(outcome.problems) == 1
    assert outcome.csv.read_text().startswith("id,prompt,response")
    assert table(outcome.folder, "activations") == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id,text\na,b\n", "the column(s) prompt are missing"),
        ("id,prompt,response\na,b,c\n", "the column(s) response are also written"),
        ("id,prompt\na,\n", "no row of it can be asked"),
        ("id,prompt\n", "no row of it can be asked"),
    ],
)
def test_a_file_that_cannot_be_asked_is_refused(
    model: AdaptedModel,
    spec: Callable[..., InferenceSpec],
    tmp_path: Path,
    content: str,
    words: str,
) -> None:
    path = tmp_path / "p.csv"
    path.write_text(content)
    with pytest.raises(InputProblems) as caught:
        run_inference(model, spec(prompts=path))
    assert words in str(caught.value)
    assert not (tmp_path / "out.csv").exists()


def test_all_settings_out_of_range_are_said_at_once(
    model: AdaptedModel, spec: Callable[..., InferenceSpec]
) -> None:
    wrong = spec(
        decoding=Decoding(temperature=-1), batch_size=0, pause_s=-1.0, limit=0, trace_layers=(1,)
    )
    with pytest.raises(InputProblems) as caught:
        run_inference(model, wrong)
    names = {problem.where for problem in caught.value.problems}
    assert names == {"temperature", "batch_size", "pause_s", "limit", "trace_layers"}


def test_a_csv_of_somebody_else_is_not_touched(
    model: AdaptedModel, spec: Callable[..., InferenceSpec], tmp_path: Path
) -> None:
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(RecordsError, match="was not made by this run"):
        run_inference(model, spec())
    assert (tmp_path / "out.csv").read_text() == "mine"


def test_the_prompts_themselves_are_not_overwritten(
    model: AdaptedModel, spec: Callable[..., InferenceSpec], prompts: Path
) -> None:
    before = prompts.read_bytes()
    with pytest.raises(RecordsError, match="was not made by this run"):
        run_inference(model, spec(out=prompts))
    assert prompts.read_bytes() == before


def test_other_settings_are_refused_by_name(
    model: AdaptedModel, spec: Callable[..., InferenceSpec]
) -> None:
    before = run_inference(model, spec()).csv.read_bytes()
    other = spec(decoding=dataclasses.replace(WARM, top_k=7), batch_size=9)
    with pytest.raises(RecordsError) as caught:
        run_inference(model, other)
    for name in ("temperature", "sample_top_k", "seed", "batch_size"):
        assert f"settings.{name}" in str(caught.value)
    assert spec().out.read_bytes() == before


class NeverLoaded(ModelChoice):
    """A model that is only looked at from outside."""

    def load(self) -> AdaptedModel:
        raise AssertionError("it was loaded")


def test_a_finished_run_is_not_done_again(llama: Case, spec: Callable[..., InferenceSpec]) -> None:
    choice = {"name": str(llama.folder), "bits": 32, "device": "cpu"}
    whole = spec(batch_size=None)
    before = run_inference(ModelChoice(**choice), whole)
    content = before.csv.read_bytes()
    before.csv.unlink()
    again = run_inference(NeverLoaded(**choice), whole)
    assert again == before
    assert again.csv.read_bytes() == content, "a CSV that was deleted is made again"
    with pytest.raises(AssertionError, match="it was loaded"):
        run_inference(NeverLoaded(**(choice | {"bits": 16})), whole)


# --- the CSV ------------------------------------------------------------------------------------

NASTY = (
    "=1+1",
    "@SUM(A1)",
    "-2",
    "\tx",
    "\rx",
    "\x1b[31mred",
    'a"b',
    "a,b\nc\r\nd",
    "'=x",
    "\u202e",
)


def response_row(item: str, text: str) -> dict[str, Any]:
    counts = {"finish_reason": "stop", "n_prompt_tokens": 1, "n_generated_tokens": 1}
    return {"prompt_id": item, "response": text, **counts}


def check_round_trip(path: Path, texts: Sequence[str]) -> None:
    asked = [Asked(f"{i}{text}", text, "") for i, text in enumerate(texts)]
    rows = [response_row(one.id, one.prompt) for one in asked]
    made = ResponsesCsv(path, asked, retrieval=False)
    made.write(pa.Table.from_pylist(rows[:2], RESPONSES))
    made.append(pa.Table.from_pylist(rows[2:], RESPONSES))
    found = rows_of(path)
    assert [row["response"] for row in found] == list(texts)
    assert [row["prompt"] for row in found] == list(texts)
    assert [row["id"] for row in found] == [one.id for one in asked]
    for row in csv.reader(io.StringIO(path.read_text(), newline="")):
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)


def test_formulas_controls_and_line_ends_survive_and_do_no_harm(tmp_path: Path) -> None:
    check_round_trip(tmp_path / "nasty.csv", NASTY)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))))
def test_any_text_survives_the_csv(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    check_round_trip(tmp_path_factory.mktemp("csv") / "any.csv", texts)


# --- retrieval ----------------------------------------------------------------------------------


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
    path = write_prompts(tmp_path / "p.csv", [{"id": "a", "prompt": "Rome"}])
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
    (cells,) = rows_of(outcome.csv)
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


# --- interruptions ------------------------------------------------------------------------------

# A process that has the model loaded and forks for each run: an interruption costs no imports.
FORKING = """
import dataclasses, json, os, resource, sys
from pathlib import Path
from lensbench.errors import LensbenchError
from lensbench.quantized.generation.generate import Decoding, generate
from lensbench.quantized.generation.infer import InferenceSpec, ModelChoice, run_inference
model = ModelChoice(sys.argv[1], 32, device="cpu").load()
decoding = Decoding(max_new_tokens=6, temperature=1.3, top_p=0.95, seed=5)
generate(model, [[1, 2, 3]], decoding)  # transformers imports half of itself only now
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        if order["largest_file"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"],) * 2)
        out = Path(order["out"])
        spec = InferenceSpec(Path(sys.argv[2]), out / "out.csv", decoding, "none", 1)
        spec = dataclasses.replace(spec, trace=out / "trace", trace_layers=(1, 3))
        spec = dataclasses.replace(spec, pause_s=order["pause_s"])
        try:
            os._exit(0 if run_inference(model, spec).ok else 1)
        except KeyboardInterrupt:
            os._exit(130)
        except LensbenchError as error:
            (out / "failed.txt").write_text(str(error))
            os._exit(2)
        finally:
            os._exit(99)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
N_PARTS = len(PROMPTS)


class Runner:
    """Starts runs in processes that can be killed."""

    def __init__(self, model: Path, prompts: Path) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", FORKING, str(model), str(prompts)]
        self.server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=ONE_THREAD)

    def run(
        self,
        out: Path,
        kill: signal.Signals | None = None,
        when: Callable[[], bool] = lambda: True,
        largest_file: int = 0,
        pause_s: float = 0.0,
    ) -> int:
        """One run; `kill` is sent as soon as `when()` holds. Returns the exit status."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        order = {"out": str(out), "largest_file": largest_file, "pause_s": pause_s}
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        child = int(self.server.stdout.readline())
        if kill is not None:
            wait_until(when)
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(child, kill)
        return int(self.server.stdout.readline())


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


@pytest.fixture(scope="module")
def runner(llama: Case, prompts: Path) -> Iterator[Runner]:
    found = Runner(llama.folder, prompts)
    yield found
    assert found.server.stdin is not None
    found.server.stdin.close()
    found.server.wait()


@pytest.fixture(scope="module")
def undisturbed(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    assert runner.run(out) == 0
    return files(out)


def files(out: Path) -> dict[str, bytes]:
    """Every file of a finished run but the manifest."""
    paths = [path for path in out.rglob("*") if path.is_file()]
    kept = [path for path in paths if path.name not in ("manifest.json", ".lock", "failed.txt")]
    return {str(path.relative_to(out)): path.read_bytes() for path in kept}


def parts(out: Path) -> list[Path]:
    return [path for path in out.glob("trace/parts/*.parquet") if path.name.count(".") == 1]


def is_complete(out: Path) -> bool:
    path = out / "trace" / "manifest.json"
    return path.exists() and json.loads(path.read_text())["status"] == "complete"


def has_parts(out: Path, number: int) -> Callable[[], bool]:
    return lambda: len(parts(out)) >= number or is_complete(out)


def check_in_step(out: Path) -> None:
    """After an interruption: no row twice, and a part's trace is there with its responses."""
    whole = parts(out) if not is_complete(out) else []
    ids = [row["prompt_id"] for path in whole for row in pq.read_table(path).to_pylist()]
    assert len(ids) == len(set(ids))
    for path in whole:
        (item,) = pq.read_table(path, columns=["prompt_id"]).to_pydict()["prompt_id"]
        traced = pq.read_table(path.with_name(f"{path.stem}.activations.parquet")).to_pylist()
        assert {row["prompt_id"] for row in traced} == {item}
        assert (out / "trace" / "residuals" / f"{path.stem}.safetensors").exists()
    if whole and (out / "out.csv").exists():
        written = [line.partition(",")[0] for line in (out / "out.csv").read_text().splitlines()]
        assert len(written) == len(set(written))


def test_the_undisturbed_run_has_everything(undisturbed: dict[str, bytes]) -> None:
    shards = {f"trace/residuals/{number:06d}.safetensors" for number in range(N_PARTS)}
    tables = {f"trace/{name}.parquet" for name in KINDS["trace"]}
    assert set(undisturbed) == shards | tables | {"out.csv"}


def test_a_run_interrupted_again_and_again_gives_the_same_bytes(
    runner: Runner, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """Pauses, so that a slow test still kills it in time."""
    kills = {1: signal.SIGKILL, 4: signal.SIGTERM, 7: signal.SIGINT, 9: signal.SIGKILL}
    for number, kill in kills.items():
        status = runner.run(tmp_path, kill, has_parts(tmp_path, number), pause_s=0.2)
        assert status == (130 if kill == signal.SIGINT else -kill)
        assert not is_complete(tmp_path)
        check_in_step(tmp_path)
    there = len(parts(tmp_path))
    assert runner.run(tmp_path) == 0
    assert manifest(tmp_path / "trace")["resumed_batches"] == there >= 9
    assert files(tmp_path) == undisturbed


def interrupt_at_random(runner: Runner, out: Path, seed: int, times: int) -> None:
    """Kills at random moments: at the start, after some parts, a little later than that."""
    chance = random.Random(seed)
    for _ in range(times):
        more = len(parts(out)) + chance.randrange(4)
        pause = chance.choice([0, 0.003, 0.02, 0.1]) * chance.random()

        def moment(more: int = more, pause: float = pause) -> bool:
            return has_parts(out, more)() and time.sleep(pause) is None

        runner.run(out, signal.SIGKILL, moment)
        check_in_step(out)


def test_kills_at_random_moments_change_nothing(
    runner: Runner, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    interrupt_at_random(runner, tmp_path, seed=0, times=8)
    assert runner.run(tmp_path) == 0
    assert files(tmp_path) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_kills_at_random_moments_change_nothing(
    seed: int, runner: Runner, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    interrupt_at_random(runner, tmp_path, seed, times=15)
    assert runner.run(tmp_path) == 0
    assert files(tmp_path) == undisturbed


def test_a_disk_that_fills_up_loses_nothing(
    runner: Runner, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """Every batch can be written and is kept; there is no room for a whole table."""
    largest = len(undisturbed["trace/activations.parquet"]) - 1
    assert runner.run(tmp_path, largest_file=largest) == 2
    message = (tmp_path / "failed.txt").read_text()
    assert "File too large" in message
    assert "run the same command again" in message
    assert len(parts(tmp_path)) == N_PARTS
    assert runner.run(tmp_path) == 0
    assert manifest(tmp_path / "trace")["resumed_batches"] == N_PARTS
    assert files(tmp_path) == undisturbed


def test_a_torn_line_at_the_end_of_the_csv_is_mended(
    model: AdaptedModel, spec: Callable[..., InferenceSpec]
) -> None:
    def stop(now: Progress) -> None:
        if now.n_done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_inference(model, spec(), progress=stop)
    path = spec().out
    assert len(rows_of(path)) == 6, "each batch is in the CSV when it is done"
    path.write_text(path.read_text() + 'q99,"half a')
    assert run_inference(model, spec()).ok
    assert [row["id"] for row in rows_of(path)] == list(PROMPTS)


def test_a_smaller_batch_size_may_go_on_with_a_run(
    model: AdaptedModel, spec: Callable[..., InferenceSpec]
) -> None:
    """What a machine that ran out of memory, and was killed for it, needs."""

    def stop(now: Progress) -> None:
        if now.n_done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_inference(model, spec(batch_size=6), progress=stop)
    with pytest.raises(RecordsError, match=r"settings\.batch_size"):
        run_inference(model, spec(batch_size=7))
    found = responses(run_inference(model, spec(batch_size=2)).folder)
    assert {len(row["batch_ids"]) for row in found.values() if row["batch"] == 0} == {6}
    assert {len(row["batch_ids"]) for row in found.values() if row["batch"] > 0} == {2}


# --- the command --------------------------------------------------------------------------------


def test_the_command_answers_and_says_where(
    lensbench: Program, llama: Case, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers.csv"
    how = ["--bits", "32", "--max-new-tokens", "4", "--device", "cpu", "--temperature", "0.7"]
    how += ["--sample-top-k", "20", "--top-p", "0.9", "--repetition-penalty", "1.1", "--seed", "3"]
    how += ["--trace", str(tmp_path / "t"), "--trace-layers", "0,2-3", "--limit", "3"]
    done = lensbench("infer", llama.folder, prompts, "-o", out, *how)
    assert done.status == 0, done.err
    assert done.out.split() == [str(out), str(tmp_path / "t")]
    settings = manifest(tmp_path / "t")["settings"]
    expected = {"temperature": 0.7, "sample_top_k": 20, "top_p": 0.9, "repetition_penalty": 1.1}
    expected |= {"seed": 3, "max_new_tokens": 4, "limit": 3, "trace_layers": [0, 2, 3]}
    assert {key: settings[key] for key in expected} == expected
    assert len(rows_of(out)) == 3
    assert all(len(row["token_ids"]) <= 4 for row in responses(tmp_path / "t").values())


def test_bad_rows_are_exit_status_1(lensbench: Program, llama: Case, tmp_path: Path) -> None:
    path = write_prompts(
        tmp_path / "p.csv", [{"id": "", "prompt": "x"}, {"id": "a", "prompt": "b"}]
    )
    how = ["--bits", "32", "--max-new-tokens", "2", "--device", "cpu"]
    done = lensbench("infer", llama.folder, path, "-o", tmp_path / "o.csv", *how)
    assert done.status == 1
    assert "row 2: the id is empty" in done.err
    assert [row["id"] for row in rows_of(tmp_path / "o.csv")] == ["a"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--top-k", "3"], "no effect without --rag"),
        (["--trace-layers", "1"], "no effect without --trace"),
        (["--trace", "t", "--trace-layers", "a-b"], "15-20"),
        (["--bits", "7"], "7"),
    ],
)
def test_options_without_sense_are_refused(
    lensbench: Program, llama: Case, prompts: Path, options: list[str], words: str
) -> None:
    done = lensbench("infer", llama.folder, prompts, "-o", "o.csv", *options)
    assert done.status == 2
    assert words in done.err


def test_int8_in_batches_is_said_not_to_be_batch_invariant(
    llama: Case, spec: Callable[..., InferenceSpec], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    for threshold, batch_size, expected in ((6.0, 3, True), (0.0, 3, False), (6.0, 1, False)):
        said: list[str] = []
        choice = ModelChoice(str(llama.folder), 8, device="cpu", int8_threshold=threshold)
        out = tmp_path / f"{threshold}-{batch_size}.csv"
        few = spec(out=out, batch_size=batch_size, limit=3)
        run_inference(choice, few, notify=said.append)
        assert any("not batch-invariant" in text for text in said) is expected


@pytest.mark.slow
def test_the_command_line_is_interrupted_and_goes_on(
    llama: Case, prompts: Path, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "lensbench.cli", "infer", str(llama.folder), str(prompts)]
    words += ["-o", str(tmp_path / "o.csv"), "--bits", "32", "--device", "cpu", "--batch-size", "1"]
    words += ["--max-new-tokens", "4", "--limit", "6", "--pause", "2"]
    record = tmp_path / "o.records"
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=ONE_THREAD) as first:
        wait_until(lambda: len(list(record.glob("parts/0*.parquet"))) >= 2, seconds=400)
        first.send_signal(signal.SIGINT)
        _, message = first.communicate()
    assert first.returncode == 130
    assert "Run the same command again" in message
    assert "Traceback" not in message
    assert rows_of(tmp_path / "o.csv"), "at least all batches but the last one"
    second = subprocess.run(words, capture_output=True, text=True, env=ONE_THREAD, check=False)
    assert second.returncode == 0, second.stderr
    assert manifest(record)["resumed_batches"] >= 2
    assert [row["id"] for row in rows_of(tmp_path / "o.csv")] == list(PROMPTS)[:6]
