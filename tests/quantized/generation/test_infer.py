"""`infer`: what Hugging Face says to each prompt alone, every row once, and what is refused."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from lensbench.errors import InputProblems, RecordsError
from lensbench.progress import Progress
from lensbench.quantized.generation.infer import run_inference
from lensbench.quantized.generation.spec import Decoding, InferenceSpec
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.records.schema import KINDS, TABLES
from tests.harness.adapted import adapted, alone
from tests.harness.files import manifest, table, write_csv
from tests.harness.inference import GREEDY, N_NEW, PROMPTS, WARM, responses, rows_of
from tests.harness.program import Program
from tests.harness.tiny import Case

# --- one undisturbed run ------------------------------------------------------------------------


def test_the_csv_holds_what_hugging_face_says_to_each_prompt_alone(
    model: AdaptedModel, spec: Callable[..., InferenceSpec]
) -> None:
    outcome = run_inference(model, spec())
    assert outcome.ok
    found = rows_of(spec().out)
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
    header = spec().out.read_text().splitlines()[0]
    counts = "n_prompt_tokens,n_generated_tokens"
    assert header == f"id,prompt,response,finish_reason,{counts},topic"


def test_further_columns_pass_through_untouched(
    model: AdaptedModel, spec: Callable[..., InferenceSpec]
) -> None:
    run_inference(model, spec())
    with spec().out.open(newline="") as handle:
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
    assert files == set(KINDS[kind].names)
    for name in files:
        assert pq.read_schema(outcome.folder / f"{name}.parquet").equals(TABLES[name].schema)
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
    run_inference(model, limited, progress=steps.append)
    assert time.monotonic() - started > 2 * 0.3
    counted = [(step.done, step.total) for step in steps if step.unit == "prompts"]
    assert counted == [(0, 5), (2, 5), (4, 5), (5, 5)]
    found = responses(limited.folder)
    assert list(found) == list(PROMPTS)[:5]
    n_tokens = sum(row["n_generated_tokens"] for row in found.values())
    assert steps[-1].detail.startswith(f"{n_tokens} new tokens, ")


# --- the trace ----------------------------------------------------------------------------------


def test_the_trace_is_that_of_the_hidden_states(
    llama: Case, model: AdaptedModel, spec: Callable[..., InferenceSpec], tmp_path: Path
) -> None:
    folder = run_inference(model, spec(trace=tmp_path / "trace", trace_layers=(0, 2))).folder
    asked = responses(folder)
    cells = {
        (row["prompt_id"], row["span"], row["layer"]): row for row in table(folder, "activations")
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
            for span, part in (("prompt", state[:n_prompt]), ("generated", state[n_prompt:])):
                cell = cells[item, span, layer]
                np.testing.assert_allclose(cell["mean"], part.mean(0), rtol=1e-4, atol=1e-4)
                norm = np.linalg.norm(part, axis=-1).mean()
                np.testing.assert_allclose(cell["mean_norm"], norm, rtol=1e-4)
                assert cell["n_tokens"] == len(part)
                assert cell["depth"] == layer / n_layers
                assert cell["site"] == ("embed" if layer == 0 else "resid_post")
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
    assert (tmp_path / "t.csv").read_bytes() == spec().out.read_bytes()


def test_layers_that_do_not_exist_are_refused(
    model: AdaptedModel, spec: Callable[..., InferenceSpec], tmp_path: Path
) -> None:
    with pytest.raises(InputProblems, match="no layer 4, 9"):
        run_inference(model, spec(trace=tmp_path / "trace", trace_layers=(0, 4, 9)))


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
    path = write_csv(tmp_path / "bad.csv", rows)
    outcome = run_inference(model, spec(prompts=path))
    assert [row["id"] for row in rows_of(spec().out)] == ["good", "last"]
    said = {(problem.where, problem.prompt_id) for problem in outcome.problems}
    expected = {"3": None, "4, id good": "good", "5, id empty": "empty", "6, id long": "long"}
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
    outcome = run_inference(model, spec(prompts=write_csv(tmp_path / "p.csv", rows)))
    assert list(responses(outcome.folder)) == ["fits"]
    assert [problem.prompt_id for problem in outcome.problems] == ["not"]


def test_a_run_in_which_nothing_fits_is_a_complete_record_of_problems(
    model: AdaptedModel, spec: Callable[..., InferenceSpec], tmp_path: Path
) -> None:
    rows = [{"id": "long", "prompt": "Rome Berlin " * 60}]
    path = write_csv(tmp_path / "p.csv", rows)
    outcome = run_inference(model, spec(prompts=path, trace=tmp_path / "trace"))
    assert responses(outcome.folder) == {}
    assert len(outcome.problems) == 1
    assert spec().out.read_text().startswith("id,prompt,response")
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
    spec: Callable[..., InferenceSpec],
) -> None:
    with pytest.raises(InputProblems) as caught:
        spec(decoding={"temperature": -1}, batch_size=0, pause_s=-1.0, limit=0)
    names = {problem.where for problem in caught.value.problems}
    assert names == {"temperature", "batch_size", "pause_s", "limit"}
    with pytest.raises(InputProblems, match="trace_layers: it has no effect without `trace`"):
        spec(trace_layers=(1,))


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
    run_inference(model, spec())
    before = spec().out.read_bytes()
    other = spec(decoding=WARM.changed(top_k=7), batch_size=9)
    with pytest.raises(RecordsError) as caught:
        run_inference(model, other)
    for name in ("temperature", "sample_top_k", "seed", "batch_size"):
        assert f"settings.{name}" in str(caught.value)
    assert spec().out.read_bytes() == before


def test_a_finished_run_is_not_done_again(
    llama: Case,
    spec: Callable[..., InferenceSpec],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def never(*_: Any, **__: Any) -> AdaptedModel:
        raise AssertionError("it was loaded")

    whole = spec(batch_size=None, device="cpu")
    before = run_inference(f"{llama.folder}@32", whole)
    content = whole.out.read_bytes()
    whole.out.unlink()
    monkeypatch.setattr("lensbench.quantized.generation.infer.load_quantized", never)
    again = run_inference(f"{llama.folder}@32", whole)
    assert again == before
    assert whole.out.read_bytes() == content, "a CSV that was deleted is made again"
    with pytest.raises(RecordsError, match=r"model\.bits: 32 there, 16 now"):
        run_inference(f"{llama.folder}@16", whole)
    with pytest.raises(AssertionError, match="it was loaded"):
        run_inference(f"{llama.folder}@16", whole.changed(out=tmp_path / "other.csv"))


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
    path = write_csv(tmp_path / "p.csv", [{"id": "", "prompt": "x"}, {"id": "a", "prompt": "b"}])
    how = ["--bits", "32", "--max-new-tokens", "2", "--device", "cpu"]
    done = lensbench("infer", llama.folder, path, "-o", tmp_path / "o.csv", *how)
    assert done.status == 1
    assert "row 2: the id is empty" in done.err
    assert [row["id"] for row in rows_of(tmp_path / "o.csv")] == ["a"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--top-k", "3"], "- --top-k: it has no effect without --rag"),
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
        choice = f"{llama.folder}@8:{threshold}"
        out = tmp_path / f"{threshold}-{batch_size}.csv"
        few = spec(out=out, batch_size=batch_size, limit=3)
        run_inference(choice, few, notify=said.append)
        assert any("not batch-invariant" in text for text in said) is expected
