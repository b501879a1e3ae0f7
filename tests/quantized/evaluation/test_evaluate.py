"""`lensbench eval`: likelihoods, conditions and resuming, against Hugging Face's own models."""

from __future__ import annotations

import json
import math
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from lensbench.checkpoints.hashes import hashes
from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import InputProblems, ModelError, RecordsError
from lensbench.progress import Progress
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.evaluation import evaluate as module
from lensbench.quantized.evaluation.evaluate import evaluate
from lensbench.quantized.evaluation.measure import adapted_or_not
from lensbench.quantized.evaluation.spec import EvalSpec
from lensbench.quantized.generation.likelihood import response_bits
from lensbench.quantized.generation.questions import Retrieved
from lensbench.quantized.loading.load import load_quantized
from lensbench.records.schema import SCHEMA_VERSION
from lensbench.records.schema.adapters import EVALUATION
from tests.harness.adapters import make_adapter
from tests.harness.files import write_manifest
from tests.harness.forks import Forks, KillAt, Stop
from tests.harness.program import Program
from tests.harness.tiny import PROMPTS, TINY, Case, save

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RESPONSES = ("Berlin.", "Rome is the capital of Italy.", "cold", "Paris")
FAMILIES = [name for name in TINY if name not in ("phi", "cohere", "granite")]


@dataclass(frozen=True)
class Hit:
    """What an index would find."""

    id: str
    text: str
    score: float


def choice(folder: Path, adapter: Path | None = None) -> ModelRef:
    return ModelRef.of(folder, bits=32, adapter=adapter, use="generation")


def spec_of(data: Path, **changes: Any) -> EvalSpec:
    return EvalSpec(data, **{"max_new_tokens": 6, "batch_size": 2, "style": "none", **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four good examples, one that is too long for the tiny window, one without a response."""
    rows: list[dict[str, str]] = [
        {"id": f"e{i}", "instruction": prompt, "response": response, "group": f"g{i // 2}"}
        for i, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True))
    ]
    rows.append({"id": "long", "instruction": "gold " * 100, "response": "Au"})
    rows.append({"id": "empty", "instruction": "Rome", "response": " "})
    path = tmp_path_factory.mktemp("data") / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def adapter(llama: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter on the tiny Llama: both of its matrices are noise, so it changes much."""
    folder = tmp_path_factory.mktemp("adapter") / "a"
    lora = Lora(targets="q,v", rank=4, dropout=0.0)
    facts = {"schema_version": SCHEMA_VERSION, "kind": "training", "status": "complete"}
    facts |= {"settings": {"style": "none"}, "gate": []}
    return make_adapter(llama, folder, size=0.3, lora=lora, manifest=facts)


def fresh(folder: Path) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def merged(folder: Path, adapter: Path) -> PreTrainedModel:
    """Base and adapter as one plain model."""
    from peft import PeftModel

    return PeftModel.from_pretrained(fresh(folder), adapter).merge_and_unload().eval()


def table(folder: Path) -> pd.DataFrame:
    return pq.read_table(folder / "evaluation.parquet").to_pandas()


def bits_by_hugging_face(hf: PreTrainedModel, prompt: list[int], response: list[int]) -> float:
    """The loss of the transformers model itself, summed, for one pair alone."""
    ids = torch.tensor([prompt + response])
    labels = ids.clone()
    labels[0, : len(prompt)] = -100
    with torch.no_grad():
        mean_nats = float(hf(input_ids=ids, labels=labels).loss)
    return mean_nats * len(response) / math.log(2)


@pytest.mark.parametrize("family", FAMILIES)
def test_response_bits_are_hugging_faces_loss(
    family: str, tiny_case: Callable[[str], Case]
) -> None:
    folder = tiny_case(family).folder
    model, hf = load_quantized(folder, bits=32), fresh(folder)
    prompts = [model.tokenizer(text).input_ids for text in PROMPTS]
    responses = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 2]]
    expected = [bits_by_hugging_face(hf, p, r) for p, r in zip(prompts, responses, strict=True)]
    assert response_bits(model, prompts, responses) == pytest.approx(expected, rel=2e-5)


def test_a_model_that_puts_out_nan_is_an_error(llama: Case) -> None:
    model = load_quantized(llama.folder, bits=32)
    with torch.no_grad():
        model.base.get_output_embeddings().weight[7] = math.nan
    with pytest.raises(ModelError, match="NaN"):
        response_bits(model, [[1, 2]], [[3]])


def test_an_adapter_switched_off_is_exactly_the_base(llama: Case, adapter: Path) -> None:
    model, ids = load_quantized(llama.folder, bits=32, adapter=adapter), torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        adapted = model.hf(ids).logits
        with adapted_or_not(model, False):
            switched_off = model.hf(ids).logits
        again = model.hf(ids).logits
        base = fresh(llama.folder)(ids).logits
    assert torch.equal(switched_off, base)
    assert torch.equal(adapted, again)
    assert not torch.allclose(adapted, base, atol=1e-2)


@pytest.fixture(scope="module")
def run(llama: Case, adapter: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One undisturbed evaluation of base and adapter."""
    out = tmp_path_factory.mktemp("eval") / "run"
    problems = evaluate(choice(llama.folder, adapter), spec_of(data), out)
    assert sorted(problem.prompt_id or "" for problem in problems) == ["empty", "long"]
    return out


def test_every_example_in_every_condition_once(run: Path) -> None:
    found = table(run)
    assert found.columns.tolist() == EVALUATION.names
    expected = [(c, f"e{i}") for c in ("base", "adapter") for i in range(4)]
    there = list(zip(found["condition"], found["prompt_id"], strict=True))
    assert len(there) == len(expected)
    assert set(there) == set(expected)
    assert set(zip(found["prompt_id"], found["group"], strict=True)) == {
        (f"e{i}", f"g{i // 2}") for i in range(4)
    }
    problems = pq.read_table(run / "problems.parquet").to_pandas()
    assert set(problems["prompt_id"]) == {"empty", "long"}


@pytest.mark.parametrize("condition", ["base", "adapter"])
def test_responses_and_likelihoods_are_those_of_the_plain_and_the_merged_model(
    condition: str, run: Path, llama: Case, adapter: Path
) -> None:
    from transformers import AutoTokenizer

    hf = fresh(llama.folder) if condition == "base" else merged(llama.folder, adapter)
    tokenizer = AutoTokenizer.from_pretrained(llama.folder)
    found = table(run)
    for row in found[found["condition"] == condition].to_dict("records"):
        prompt = tokenizer(row["prompt"]).input_ids
        whole = tokenizer(row["prompt"] + row["reference"]).input_ids
        assert whole[: len(prompt)] == prompt
        reference = [*whole[len(prompt) :], 2]
        assert row["n_reference_tokens"] == len(reference)
        expected = bits_by_hugging_face(hf, prompt, reference)
        assert row["reference_nll_bits"] == pytest.approx(expected, rel=1e-4)
        with torch.no_grad():
            ids = hf.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False)
        said = tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True)
        assert row["response"] == said
        assert row["n_generated_tokens"] == ids.shape[1] - len(prompt)
        assert row["finish_reason"] == ("stop" if ids[0, -1] == 2 else "length")


def test_base_and_adapter_differ(run: Path) -> None:
    found = table(run).set_index("prompt_id")
    base, own = (found[found["condition"] == c] for c in ("base", "adapter"))
    assert not (base["reference_nll_bits"] == own["reference_nll_bits"]).any()


def written_at(folder: Path) -> dict[str, int]:
    """When each batch of an unfinished record was written."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "parts").glob("*.parquet")}


@pytest.mark.parametrize("at", [0, 1, 3])
def test_interrupted_runs_go_on_to_the_same_table(
    at: int, run: Path, llama: Case, adapter: Path, data: Path, tmp_path: Path
) -> None:
    def interrupt(now: Progress) -> None:
        assert now.total in (None, 4)  # two batches of two in two conditions
        if now.total is not None and now.done == at:
            raise Stop

    model, spec = choice(llama.folder, adapter), spec_of(data)
    with pytest.raises(Stop):
        evaluate(model, spec, tmp_path / "out", interrupt)
    assert not (tmp_path / "out" / "evaluation.parquet").exists()
    kept = written_at(tmp_path / "out")
    assert len(kept) == at
    seen: list[dict[str, int]] = []
    evaluate(model, spec, tmp_path / "out", lambda *_: seen.append(written_at(tmp_path / "out")))
    assert {name: seen[-1][name] for name in kept} == kept  # not made again
    assert table(tmp_path / "out").equals(table(run))
    assert (tmp_path / "out" / "evaluation.parquet").read_bytes() == (
        run / "evaluation.parquet"
    ).read_bytes()


@pytest.mark.slow
def test_a_killed_run_goes_on(
    forks: Forks, run: Path, llama: Case, adapter: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    wanted = choice(llama.folder, adapter), spec_of(data), out
    for at in (1, 3, 4):
        assert forks.run(evaluate, *wanted, KillAt(at)).status == -signal.SIGKILL
    evaluate(*wanted)
    assert table(out).equals(table(run))


@pytest.mark.parametrize("stopped", [False, True])
def test_a_pilot_keeps_its_rows_and_the_rest_is_measured(
    stopped: bool, run: Path, llama: Case, adapter: Path, data: Path, tmp_path: Path
) -> None:
    def stop(now: Progress) -> None:
        if now.total is not None and now.done == 3:
            raise Stop

    model, out = choice(llama.folder, adapter), tmp_path / "out"
    evaluate(model, spec_of(data, limit=1), out)
    pilot = table(out)
    assert pilot["condition"].tolist() == ["base", "adapter"]
    if stopped:
        with pytest.raises(Stop):
            evaluate(model, spec_of(data), out, stop)
    problems = evaluate(model, spec_of(data), out)
    assert {problem.prompt_id for problem in problems} == {"long", "empty"}
    wide, whole = table(out), table(run)
    keys = ["condition", "prompt_id"]
    now = wide.set_index(keys)
    assert all(repr(now.loc[key]) == repr(row) for key, row in pilot.set_index(keys).iterrows())
    assert wide["condition"].tolist() == whole["condition"].tolist()
    measured = whole.sort_values(keys)["reference_nll_bits"].to_numpy()
    assert wide.sort_values(keys)["reference_nll_bits"].to_numpy() == pytest.approx(measured)
    made = json.loads((out / "manifest.json").read_text())
    assert made["settings"]["n_examples"] == 5
    assert [each["settings"] for each in made["widened"]] == [{"n_examples": 1}]
    with pytest.raises(RecordsError, match="not narrowed"):
        evaluate(model, spec_of(data, limit=2), out)


def test_a_complete_run_is_left_alone(run: Path, llama: Case, adapter: Path, data: Path) -> None:
    before = (run / "manifest.json").stat().st_mtime_ns
    problems = evaluate(choice(llama.folder, adapter), spec_of(data), run)
    assert (run / "manifest.json").stat().st_mtime_ns == before
    assert len(problems) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"max_new_tokens": 7}, "max_new_tokens"), ({}, "adapter_sha256")],
)
def test_a_folder_of_other_settings_is_refused(
    changes: dict[str, Any], said: str, run: Path, llama: Case, adapter: Path, data: Path
) -> None:
    model = choice(llama.folder, adapter if changes else None)
    with pytest.raises(RecordsError, match=said):
        evaluate(model, spec_of(data, **changes), run)


def test_system_messages_are_left_out_and_said(llama: Case, tmp_path: Path) -> None:
    user = {"role": "user", "content": "Rome"}
    answer = {"role": "assistant", "content": "Italy"}
    rows = [
        {"id": "plain", "messages": [user, answer]},
        {"id": "system", "messages": [{"role": "system", "content": "Be brief."}, user, answer]},
    ]
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (problem,) = evaluate(choice(llama.folder), spec_of(path), tmp_path / "out")
    assert problem.prompt_id == "system"
    assert table(tmp_path / "out")["prompt_id"].tolist() == ["plain"]


def test_one_condition_alone_is_the_same_as_among_all(
    run: Path, llama: Case, adapter: Path, data: Path, tmp_path: Path
) -> None:
    every = table(run)
    for only, model in (("adapter", choice(llama.folder, adapter)), ("base", choice(llama.folder))):
        evaluate(model, spec_of(data, only=only), tmp_path / only)
        own, among = table(tmp_path / only), every[every["condition"] == only]
        assert own["reference_nll_bits"].tolist() == among["reference_nll_bits"].tolist()
        assert set(own["condition"]) == {only}
    with pytest.raises(InputProblems, match="no condition 'rag'"):
        evaluate(choice(llama.folder, adapter), spec_of(data, only="rag"), tmp_path / "rag")


def test_settings_out_of_range_come_all_at_once(data: Path) -> None:
    with pytest.raises(InputProblems) as caught:
        spec_of(data, max_new_tokens=0, batch_size=0, limit=0)
    assert len(caught.value.problems) == 3


def test_a_loaded_model_gives_what_a_chosen_one_does(
    run: Path, llama: Case, adapter: Path, data: Path, tmp_path: Path
) -> None:
    model = load_quantized(llama.folder, bits=32, adapter=adapter)
    evaluate(model, spec_of(data), tmp_path / "out")
    assert table(tmp_path / "out").equals(table(run))


def test_an_adapter_of_another_base_is_refused(
    gpt2: Case, adapter: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="other weights"):
        evaluate(choice(gpt2.folder, adapter), spec_of(data), tmp_path / "out")


def test_a_folder_without_an_adapter_is_named(llama: Case, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputProblems, match=r"there is no folder \S+nowhere"):
        evaluate(choice(llama.folder, tmp_path / "nowhere"), spec_of(data, style=None), tmp_path)


def test_an_adapter_of_unknown_style_is_asked_in_the_models(
    llama: Case, adapter: Path, data: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "adapter"
    copy.mkdir()
    for file in adapter.iterdir():
        if file.name != "manifest.json":
            (copy / file.name).write_bytes(file.read_bytes())
    evaluate(choice(llama.folder, copy), spec_of(data, style=None, limit=1), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["settings"]["style"] == "none"


def test_examples_none_of_which_fits_are_an_input_problem(llama: Case, tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"id": "a", "instruction": "gold " * 100, "response": "b"}))
    with pytest.raises(InputProblems, match="window"):
        evaluate(choice(llama.folder), spec_of(path), tmp_path / "out")


def test_retrieval_frames_the_same_examples(
    adapter: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hits as an index would give them; one of them is too long for the window of 160."""
    folder = save(TINY["llama"], tmp_path / "model", {"max_position_embeddings": 160})
    adapter = shutil.copytree(adapter, tmp_path / "adapter")  # and as if it were of this model
    about = json.loads((adapter / "manifest.json").read_text())
    about["model"] |= hashes(folder)
    (adapter / "manifest.json").write_text(json.dumps(about))
    asked: list[str] = []

    def found(index: str, questions: Any, top_k: int) -> Retrieved:
        asked.extend(question.prompt for question in questions)
        texts = ["Berlin", "Rome", "gold " * 300, "Paris", "x"]
        hits = [[Hit(f"d{i}", text, 0.5)] for i, text in enumerate(texts)]
        return Retrieved(hits, {"documents": 5})

    monkeypatch.setattr(module, "retrieve", found)
    evaluate(choice(folder, adapter), spec_of(data, rag="index"), tmp_path / "out")
    rows = table(tmp_path / "out")
    assert rows["condition"].unique().tolist() == ["base", "adapter", "rag", "adapter+rag"]
    assert rows.groupby("condition").size().tolist() == [len(rows) // 4] * 4
    assert asked[0] == PROMPTS[0]
    bits = rows.pivot(index="prompt_id", columns="condition", values="reference_nll_bits")
    assert (bits["base"] != bits["rag"]).all()
    assert (bits["adapter+rag"] != bits["adapter"]).all()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["context_cut"]["examples"] == 1
    assert manifest["context_cut"]["tokens"] > 0
    assert manifest["settings"]["rag"] == {"documents": 5}


def test_the_style_is_the_adapters_own(
    llama: Case, adapter: Path, data: Path, tmp_path: Path
) -> None:
    manifest = json.loads((adapter / "manifest.json").read_text())
    copy = tmp_path / "adapter"
    copy.mkdir()
    for file in adapter.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    manifest["settings"]["style"] = "alpaca"
    write_manifest(copy, manifest)
    spec = spec_of(data, style=None, limit=1)
    for given, expected in ((None, "none"), (copy, "alpaca")):
        out = tmp_path / expected
        evaluate(choice(llama.folder, given), spec, out)
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["settings"]["style"] == expected


def test_the_command_writes_a_report(
    lensbench: Program, llama: Case, adapter: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "eval"
    options = f"--adapter {adapter} --data {data} --bits 32 --max-new-tokens 4 -o {out}".split()
    done = lensbench("eval", llama.folder, *options)
    assert done.status == 1  # two rows were left out
    assert "ROUGE-L" in done.out
    assert "too" in done.err or "window" in done.err
    for name in ("report.md", "examples.md", "tables/eval_results.csv", "figures/differences.svg"):
        assert (out / name).is_file(), name
    results = pd.read_csv(out / "tables" / "eval_results.csv")
    assert set(results["condition"]) == {"base", "adapter"}
    assert (results["n"] <= 4).all()


@pytest.mark.real
@pytest.mark.slow
def test_the_real_model_in_8_bits(smollm_folder: Path, tmp_path: Path) -> None:
    """The base alone, in LLM.int8: the true answer is likelier than a wrong one."""
    rows = [
        {"id": "right", "instruction": "What is the capital of France?", "response": "Paris."},
        {"id": "wrong", "instruction": "What is the capital of France?", "response": "Oslo."},
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = EvalSpec(path, max_new_tokens=16)
    assert evaluate("smollm2-135m", spec, tmp_path / "out") == []
    found = table(tmp_path / "out").set_index("prompt_id")
    assert "Paris" in found["response"]["right"]
    assert found["reference_nll_bits"]["right"] + 3 < found["reference_nll_bits"]["wrong"]
