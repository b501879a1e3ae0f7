"""Training an adapter: losses, steps and gradients beside Hugging Face, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from lensbench.errors import InputProblems, RecordsError
from lensbench.quantized.adapters.lora import adapt, match
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.data.split import split_file
from lensbench.quantized.loading.load import load_quantized
from lensbench.quantized.precision import quantised_types
from lensbench.quantized.training.arithmetic import bfloat16_slowdown, prepare_base
from lensbench.quantized.training.examples import MASKED, batch_of
from lensbench.quantized.training.spec import TrainSpec
from lensbench.quantized.training.train import train
from tests.harness.adapters import make_adapter
from tests.harness.files import manifest, write_jsonl
from tests.harness.tiny import Case
from tests.harness.training import (
    EXACT,
    ROWS,
    curve_of,
    examples_of,
    spec_of,
)

# --- the curve, beside Hugging Face -------------------------------------------------------------


@pytest.fixture(scope="module")
def run(llama: Case, data: Path, held_out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One undisturbed run, with two batches to a step."""
    out = tmp_path_factory.mktemp("run") / "adapter"
    spec = spec_of(llama, data, held_out, out, n_examples=2, gradient_accumulation=2, epochs=3)
    assert train(spec).ok
    return out


def hf_nats(model: Any, example: Any) -> tuple[float, int]:
    """Hugging Face's own loss of one example, times its labels."""
    batch = batch_of([example], [0])
    n_labels = int((batch["labels"] != MASKED).sum())
    with torch.no_grad():
        loss = model(input_ids=batch["input_ids"], labels=batch["labels"]).loss
    return float(loss) * n_labels, n_labels


def hf_mean(model: Any, examples: list[Any]) -> float:
    nats, counts = zip(*(hf_nats(model, example) for example in examples), strict=True)
    return sum(nats) / sum(counts)


def test_evaluation_is_hugging_faces_loss_before_and_after(
    run: Path, llama: Case, held_out: Path
) -> None:
    from peft import PeftModel

    examples = examples_of(llama, held_out)
    evaluated = curve_of(run).eval_loss_nats.dropna()
    assert evaluated.iloc[0] == pytest.approx(hf_mean(llama.hf, examples), rel=1e-5)
    adapted = PeftModel.from_pretrained(llama.fresh_hf(), run).eval()
    assert evaluated.iloc[-1] == pytest.approx(hf_mean(adapted, examples), rel=1e-5)
    assert evaluated.iloc[-1] < 0.9 * evaluated.iloc[0]


def test_every_step_is_the_one_that_plain_peft_and_pytorch_take(
    run: Path, llama: Case, data: Path
) -> None:
    """A loop by hand: Hugging Face's loss, AdamW, clipping, and the learning rates recorded."""
    from transformers import set_seed
    from transformers.trainer_pt_utils import get_length_grouped_indices

    examples, curve = examples_of(llama, data), curve_of(run).dropna(subset=["loss_nats"])
    set_seed(0)
    model = adapt(llama.fresh_hf(), match(llama.hf, Lora("1-2")), Lora("1-2", dropout=0.0), "x")
    model.train()
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, weight_decay=0.0)
    lengths, steps = [len(example.token_ids) for example in examples], iter(curve.itertuples())
    for epoch in range(3):
        chance = torch.Generator().manual_seed(epoch)
        order = get_length_grouped_indices(lengths, 8, generator=chance)
        for items in (order[:8], order[8:]):
            row = next(steps)
            batches = [batch_of(examples, part) for part in (items[:4], items[4:]) if part]
            counts = [int((batch["labels"] != MASKED).sum()) for batch in batches]
            losses = [
                model(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    labels=batch["labels"],
                ).loss
                for batch in batches
            ]
            loss = sum(a * n for a, n in zip(losses, counts, strict=True)) / sum(counts)
            assert row.loss_nats == pytest.approx(loss.item(), rel=2e-5)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(learning, 1.0)
            assert row.grad_norm == pytest.approx(float(norm), rel=1e-3)
            optimizer.param_groups[0]["lr"] = row.learning_rate
            optimizer.step()
    assert next(steps, None) is None


def test_the_learning_rate_rises_and_falls_by_a_cosine(run: Path) -> None:
    rates = curve_of(run).learning_rate.dropna().tolist()
    rises = math.ceil(0.2 * 6)
    expected = [1e-2 * step / rises for step in range(rises)]
    expected += [0.5e-2 * (1 + math.cos(math.pi * k / (6 - rises))) for k in range(6 - rises)]
    assert rates == pytest.approx(expected)


def test_the_record_is_whole(run: Path, llama: Case) -> None:
    from lensbench.checkpoints.hashes import hashes

    facts, curve = manifest(run), curve_of(run)
    assert (facts["kind"], facts["status"]) == ("training", "complete")
    assert facts["model"]["weights_sha256"] == hashes(llama.folder)["weights_sha256"]
    assert facts["adapter"]["trainable"] == 2 * 8 * (2 * (32 + 32) + 2 * (32 + 16))
    assert len(facts["adapter"]["modules"]) == 8
    assert facts["settings"]["layers"] == [1, 2]
    assert (facts["settings"]["n_train"], facts["settings"]["n_eval"]) == (14, 4)
    assert curve.step.tolist() == [0, 1, 2, 2, 3, 4, 4, 5, 6, 6]  # a row per step and evaluation
    assert curve.epoch.iloc[-1] == 3.0
    assert (curve.tokens_per_s.dropna() > 0).all()
    assert curve.tokens_per_s.isna().tolist() == curve.loss_nats.isna().tolist()
    kept = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    assert kept == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "examples.jsonl",
        "manifest.json",
        "problems.parquet",
        "prompt_format.json",
        "training.parquet",
    }
    config = json.loads((run / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == llama.folder.name  # no path of this machine


def test_the_examples_are_greedy_answers_before_and_after(run: Path, llama: Case) -> None:
    from peft import PeftModel

    rows = [json.loads(line) for line in (run / "examples.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["eval", "eval"]
    words = llama.model.tokenizer
    models = {"base": llama.fresh_hf()}
    models["adapter"] = PeftModel.from_pretrained(llama.fresh_hf(), run).eval()
    longest = max(len(words(frame(row["instruction"])).input_ids) for row in rows)
    for row in rows:
        ids = torch.tensor([words(frame(row["instruction"])).input_ids])
        for name, model in models.items():
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=64 - longest,
                do_sample=False,
                pad_token_id=0,
            )
            said = words.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
            assert row[name] == said
        assert row["base"] != row["adapter"]


def frame(instruction: str) -> str:
    return f"### Instruction:\n{instruction}\n\n### Response:\n"


def test_a_complete_run_is_left_alone(run: Path, llama: Case, data: Path, held_out: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    spec = spec_of(llama, data, held_out, run, n_examples=2, gradient_accumulation=2, epochs=3)
    assert train(spec).ok
    del before[".lock"]
    assert before == {name: (run / name).stat().st_mtime_ns for name in before}


def test_other_settings_are_refused_by_name(
    run: Path, llama: Case, data: Path, held_out: Path
) -> None:
    spec = spec_of(llama, data, held_out, run, gradient_accumulation=2, epochs=3, seed=1)
    with pytest.raises(RecordsError, match=r"settings.seed: 0 there, 1 now"):
        train(spec)


@pytest.mark.slow
def test_another_seed_gives_another_order(llama: Case, data: Path, tmp_path: Path) -> None:
    curves = []
    for seed in (0, 0, 1):
        out = tmp_path / f"{len(curves)}"
        train(spec_of(llama, data, None, out, seed=seed, max_steps=2))
        curves.append(curve_of(out)[EXACT])
    pd.testing.assert_frame_equal(curves[0], curves[1])
    assert curves[0].loss_nats[0] != curves[2].loss_nats[0]


def as_floats(model: Any, case: Case) -> Any:
    """A float32 model whose linear weights are those that the int8 ones stand for."""
    floats = case.fresh_hf()
    for name, module in model.hf.named_modules():
        plain = floats.get_submodule(name)
        if hasattr(module, "state"):
            scale = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
            plain.weight.data = module.weight.data.float() * scale[:, None].float() / 127
        elif hasattr(module, "weight"):
            plain.weight.data = module.weight.data.clone()
    return floats.requires_grad_(False)


def test_an_int8_base_trains_as_the_float_model_that_its_weights_stand_for(
    llama: Case, data: Path, held_out: Path, tmp_path: Path
) -> None:
    """Losses in training and in evaluation, one example at a time or together."""
    out = tmp_path / "adapter"
    train(spec_of(llama, data, held_out, out, bits=8, batch_size=14))
    model = load_quantized(llama.folder, 8, None, "cpu")
    prepare_base(model)
    floats, curve = as_floats(model, llama), curve_of(out)
    trained = hf_mean(floats, examples_of(llama, data))
    assert curve.loss_nats.dropna().iloc[0] == pytest.approx(trained, rel=1e-5)
    evaluated = hf_mean(floats, examples_of(llama, held_out))
    assert curve.eval_loss_nats.dropna().iloc[0] == pytest.approx(evaluated, rel=1e-5)
    assert curve.eval_loss_nats.dropna().iloc[-1] < curve.eval_loss_nats.dropna().iloc[0]


def test_gradients_flow_through_int8_layers(llama: Case) -> None:
    model = load_quantized(llama.folder, 8, None, "cpu")
    prepare_base(model)
    ids, gradients = torch.tensor([[1, 5, 9, 20, 31, 7]]), []
    for own in (model.hf.eval(), as_floats(model, llama)):
        inputs = own.get_input_embeddings()(ids).detach().requires_grad_()
        own(inputs_embeds=inputs, labels=ids).loss.backward()
        gradients.append(inputs.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_base_computes_in_float32_on_a_cpu(bits: Any, llama: Case) -> None:
    model = load_quantized(llama.folder, bits, None, "cpu")
    prepare_base(model)
    dtypes = {t.dtype for t in (*model.hf.parameters(), *model.hf.buffers())}
    assert dtypes - {torch.int8, torch.uint8} == {torch.float32}
    seen: list[torch.dtype] = []
    for module in model.hf.modules():
        if isinstance(module, quantised_types(bits)):
            module.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    model.hf(input_ids=torch.tensor([[1, 5, 9]]))
    assert (set(seen), len(seen)) == ({torch.float32}, 3 * 7)


def test_a_base_in_16_bits_is_left_as_it_is(llama: Case) -> None:
    model = load_quantized(llama.folder, 16, None, "cpu")
    prepare_base(model)
    assert {p.dtype for p in model.hf.parameters()} == {torch.bfloat16}


def test_a_product_in_bfloat16_can_be_timed() -> None:
    assert bfloat16_slowdown(64) > 0


# --- bad input ----------------------------------------------------------------------------------


def test_the_longest_example_follows_a_model_with_little_room(
    llama: Case, data: Path, tmp_path: Path
) -> None:
    spec = spec_of(llama, data, None, tmp_path / "a", max_length=None, max_steps=1)
    train(spec)
    assert manifest(spec.out)["settings"]["max_length"] == 64


def test_a_base_with_an_adapter_is_refused(llama: Case, data: Path, tmp_path: Path) -> None:
    adapter = make_adapter(llama, tmp_path / "moved")
    spec = spec_of(llama, data, None, tmp_path / "a", model=f"{llama.folder}+{adapter}")
    with pytest.raises(InputProblems, match=r"it has an adapter already. Merge it"):
        train(spec)
    assert not spec.out.exists()


def test_all_problems_come_at_once(llama: Case, tmp_path: Path) -> None:
    rows = [{"id": "a", "instruction": "word " * 99, "response": "x"}]
    data = write_jsonl(tmp_path / "long.jsonl", rows)
    wrong = {"epochs": 0, "peak_learning_rate": math.inf, "warmup": 1.0, "lora": {"rank": 0}}
    with pytest.raises(InputProblems) as caught:
        spec_of(llama, data, None, tmp_path / "a", **wrong)
    names = {problem.where for problem in caught.value.problems}
    assert names == {"epochs", "peak_learning_rate", "warmup", "rank"}
    with pytest.raises(InputProblems, match="CUDA_VISIBLE_DEVICES=1"):
        spec_of(llama, data, None, tmp_path / "a", device="cuda:1")
    spec = spec_of(llama, data, None, tmp_path / "a", max_length=65)
    spec = spec.changed(lora=Lora(blocks="7", targets="z"))
    with pytest.raises(InputProblems) as caught:
        train(spec)
    said = str(caught.value)
    for part in (
        "max_length: the model has room for 64 tokens",
        "no block 7",
        "no module is called 'z'",
        "all labels masked",
    ):
        assert part in said
    assert not spec.out.exists()


def test_bad_rows_are_skipped_and_recorded(llama: Case, held_out: Path, tmp_path: Path) -> None:
    data = tmp_path / "mixed.jsonl"
    good = "\n".join(json.dumps(row) for row in ROWS[:4])
    data.write_text(good + '\nno json\n{"id": "x", "instruction": "Hi", "response": ""}\n')
    trained = train(spec_of(llama, data, held_out, tmp_path / "a", max_steps=1))
    assert not trained.ok
    assert len(trained.problems) == 2
    assert manifest(trained.folder)["problems"] == 2
    assert pq.read_table(trained.folder / "problems.parquet").num_rows == 2


def test_a_share_that_holds_out_nothing_is_named(llama: Case, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "one.jsonl", ROWS[:1])
    with pytest.raises(InputProblems, match=r"eval_share 0.1: .*--eval FILE.* share, or 0"):
        train(spec_of(llama, data, None, tmp_path / "a", eval_share=0.1))


def test_a_part_of_a_split_is_not_split_again_without_a_word(llama: Case, tmp_path: Path) -> None:
    """One hash makes both splits, so that of the first part nothing falls into the other.

    Of many rows that is no chance, and is said; of few, the nearest rows would be taken.
    """
    rows = [{"id": str(n), "instruction": f"{n} {n * n}", "response": str(n)} for n in range(120)]
    whole = write_jsonl(tmp_path / "whole.jsonl", rows)
    split_file(whole, tmp_path, {"train": 0.8, "eval": 0.2}, near=1.0)
    data, sibling = tmp_path / "train.jsonl", tmp_path / "eval.jsonl"
    with pytest.raises(InputProblems) as caught:
        train(spec_of(llama, data, None, tmp_path / "a", eval_share=0.1))
    assert f"evaluate on the one beside it (--eval {sibling})" in str(caught.value)
    train(spec_of(llama, data, sibling, tmp_path / "a", max_steps=1))


# --- a real model -------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.slow
def test_a_real_model_learns_a_form_of_answer_in_8_bits(
    smollm_folder: Path, tmp_path: Path
) -> None:
    numbers = [
        {"id": str(n), "instruction": f"Say {n}.", "response": f"<<{n}>>"} for n in range(24)
    ]
    data = write_jsonl(tmp_path / "numbers.jsonl", numbers)
    spec = TrainSpec(
        str(smollm_folder),
        data,
        tmp_path / "a",
        lora=Lora(blocks="24-29"),
        bits=8,
        device="cpu",
        epochs=4,
        batch_size=6,
        peak_learning_rate=2e-3,
        eval_share=0.2,
        cache_prefix=True,
        n_examples=2,
    )
    train(spec)
    evaluated = curve_of(spec.out).eval_loss_nats.dropna()
    assert evaluated.iloc[-1] < 0.5 * evaluated.iloc[0]
    said = [json.loads(line) for line in (spec.out / "examples.jsonl").read_text().splitlines()]
    assert all("<<" in row["adapter"] and "<<" not in row["base"] for row in said)
