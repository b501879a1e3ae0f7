"""Training an adapter: labels, losses and gradients beside Hugging Face, and interruptions."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from lensbench.checkpoints.config import check_config
from lensbench.checkpoints.open import empty_model
from lensbench.errors import InputProblems, ModelError, RecordsError
from lensbench.quantized.adapters.lora import Lora, adapt, match, ranges
from lensbench.quantized.data.pairs import Pair
from lensbench.quantized.loading.load import load_quantized
from lensbench.quantized.precision import quantised_types
from lensbench.quantized.style import ask, prompt_ids
from lensbench.quantized.training.arithmetic import bfloat16_slowdown, prepare_base
from lensbench.quantized.training.examples import MASKED, batch_of, encode, end_tokens, style_of
from lensbench.quantized.training.learn import drop_torn
from lensbench.quantized.training.spec import TrainSpec
from lensbench.quantized.training.train import train
from tests.harness.tiny import CHAT_TEMPLATE, SENTENCES, TOKENIZERS, Case, tokenizer

CONFIGS = Path(__file__).parents[2] / "configs"
EXACT = ["step", "epoch", "loss", "eval_loss", "grad_norm", "learning_rate"]
ROWS = [
    {"id": f"p{i}", "instruction": f"{text[:9]} {i}?", "response": text[: 9 + 3 * i % 17]}
    for i, text in enumerate(SENTENCES * 3)
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "pairs.jsonl", ROWS[:14])


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "held-out.jsonl", ROWS[14:])


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def spec_of(case: Case, data: Path, held_out: Path | None, out: Path, **changes: Any) -> TrainSpec:
    """14 pairs, 4 at a time: 4 steps an epoch, 8 in all, a checkpoint after every third."""
    spec = TrainSpec(
        str(case.folder),
        data,
        out,
        Lora(layers="1-2", dropout=0.0),
        bits=32,
        device="cpu",
        max_length=64,
        epochs=2,
        batch_size=4,
        learning_rate=1e-2,
        warmup=0.2,
        eval_data=held_out,
        eval_share=0.0,
        checkpoint_every=3,
        n_examples=0,
    )
    return replace(spec, **changes)


def curve_of(folder: Path) -> pd.DataFrame:
    return pq.read_table(folder / "training.parquet").to_pandas()


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


# --- which tokens are learned -------------------------------------------------------------------


def encoded_with(kind: str, style: Any, template: str | None = None, max_length: int = 200) -> Any:
    words = tokenizer(kind)
    words.chat_template = template
    pairs = [Pair(f"p{i}", f"Question {i}?", s, row=i) for i, s in enumerate(SENTENCES)]
    return words, encode(words, [words.eos_token_id], pairs, style, max_length, "pairs.jsonl")


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("style", ["alpaca", "none", "chat"])
def test_the_labels_are_the_response_and_its_end(kind: str, style: Any) -> None:
    words, found = encoded_with(kind, style, CHAT_TEMPLATE)
    batch = batch_of(found.examples, range(len(found.examples)))
    for row, example in enumerate(found.examples):
        labels = batch["labels"][row]
        learned = labels[labels != MASKED]
        assert learned[-1] == words.eos_token_id
        assert words.decode(learned[:-1]).strip() == example.pair.response
        masked = batch["input_ids"][row][(labels == MASKED) & (batch["attention_mask"][row] == 1)]
        question = ask(words, style, example.pair.question)
        assert masked.tolist() == prompt_ids(words, question)  # exactly what generation is given
        assert torch.equal(batch["input_ids"][row][labels != MASKED], learned)


def test_a_hand_worked_example() -> None:
    words = tokenizer("bytes")
    pair = Pair("a", "Hi", "Yo", row=1)
    (example,) = encode(words, [2], [pair], "alpaca", 200, "x").examples
    text = "### Instruction:\nHi\n\n### Response:\n"
    assert list(example.token_ids) == words(text).input_ids + words("Yo").input_ids + [2]
    assert example.n_prompt == len(words(text).input_ids)


def test_the_end_that_a_chat_template_writes_is_the_one_that_is_learned() -> None:
    closed = CHAT_TEMPLATE.replace("+ '\\n'", "+ '</s>\\n'")
    words, found = encoded_with("bytes", "chat", closed)
    for example in found.examples:
        response = list(example.token_ids[example.n_prompt :])
        assert response.count(words.eos_token_id) == 1
        assert response[-1] == words.eos_token_id


def test_a_response_that_is_too_long_is_cut_and_listed() -> None:
    _, whole = encoded_with("bytes", "alpaca")
    longest = max(len(example.token_ids) for example in whole.examples)
    _, found = encoded_with("bytes", "alpaca", max_length=longest - 1)
    too_long = [e for e in whole.examples if len(e.token_ids) == longest]
    assert [problem.prompt_id for problem in found.cut] == [e.pair.id for e in too_long]
    said = f"cut from {longest} to {longest - 1} tokens, its end token with it"
    assert {problem.what for problem in found.cut} == {said}
    cut = [e.token_ids for e in found.examples if e.pair in [full.pair for full in too_long]]
    assert cut == [full.token_ids[:-1] for full in too_long]


def test_an_example_with_no_label_is_left_out_and_nothing_but_them_is_refused() -> None:
    words = tokenizer("bytes")
    pairs = [Pair("long", "word " * 60, "x", row=1), Pair("short", "Hi", "Yo", row=2)]
    found = encode(words, [2], pairs, "alpaca", 60, "pairs.jsonl")
    assert [example.pair.id for example in found.examples] == ["short"]
    assert found.problems[0].what.startswith("all labels masked: the prompt alone has")
    assert found.problems[0].where == "pairs.jsonl, row 1, id long"
    with pytest.raises(InputProblems, match="all labels masked"):
        encode(words, [2], pairs[:1], "alpaca", 60, "pairs.jsonl")


def test_a_prompt_that_leaves_room_for_no_label_is_left_out() -> None:
    words, pair = tokenizer("bytes"), Pair("a", "Hi", "Yo", row=1)
    n_prompt = encode(words, [2], [pair], "alpaca", 99, "x").examples[0].n_prompt
    (example,) = encode(words, [2], [pair], "alpaca", n_prompt + 1, "x").examples
    assert len(example.token_ids) == n_prompt + 1
    with pytest.raises(InputProblems, match="all labels masked"):
        encode(words, [2], [pair], "alpaca", n_prompt, "x")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_prompt_and_response_are_tokenised_as_one_text(kind: str) -> None:
    """As a model meets them when it goes on: SentencePiece would start a text of its own with ▁."""
    words, found = encoded_with(kind, "alpaca")
    for example in found.examples:
        text = (
            f"### Instruction:\n{example.pair.question}\n\n### Response:\n{example.pair.response}"
        )
        assert list(example.token_ids) == [*words(text).input_ids, words.eos_token_id]


def test_a_system_message_needs_a_chat_template() -> None:
    words = tokenizer("bytes")
    words.chat_template = CHAT_TEMPLATE
    pairs = [Pair("a", "Hi", "Yo", system="Be brief.", row=1), Pair("b", "Hi", "Yo", row=2)]
    found = encode(words, [2], pairs, "alpaca", 99, "x")
    assert [problem.prompt_id for problem in found.problems] == ["a"]
    (example, _) = encode(words, [2], pairs, "chat", 99, "x").examples
    assert words.decode(example.token_ids).startswith("<system> Be brief.\n<user> Hi")


def test_the_form_of_the_rows_decides_the_style(tmp_path: Path, data: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    chat = write_rows(tmp_path / "chat.jsonl", [{"id": "a", "messages": turns}])
    assert (style_of(data), style_of(chat), style_of(tmp_path / "x.csv")) == (
        "alpaca",
        "chat",
        "alpaca",
    )


def test_the_checkpoints_own_end_tokens_follow_the_tokenizers(tmp_path: Path) -> None:
    words = tokenizer("bytes")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 2]}')
    assert end_tokens(words, tmp_path) == [2, 7]
    words.eos_token = None
    (tmp_path / "generation_config.json").unlink()
    with pytest.raises(ModelError, match="end token"):
        end_tokens(words, tmp_path)


# --- which modules are trained ------------------------------------------------------------------


def test_tinyllama_trains_the_published_share() -> None:
    """r = 8 on q, k, v, o of 22 layers: per layer 8 * (4 * 2048 + 2 * (2048 + 256) + 2 * 2048)."""
    from transformers import AutoConfig

    config = check_config(CONFIGS / "tinyllama.json")
    model = empty_model(AutoConfig.for_model(**config))
    matched = match(model, Lora())
    trainable, total = adapt(model, matched, Lora(), "tinyllama").get_nb_trainable_parameters()
    by_hand = 22 * 8 * (2 * (2048 + 2048) + 2 * (2048 + 256))
    assert trainable == by_hand == 2_252_800
    assert total == 1_100_048_384 + 2_252_800
    assert f"{trainable / total:.2%}" == "0.20%"
    assert len(matched.modules) == 88


@pytest.mark.parametrize("targets", ["q,k,v,o", "q,k,v,o,up,down"])
def test_the_modules_that_are_named_are_those_that_learn(family: Case, targets: str) -> None:
    model = family.fresh_hf()
    matched = match(model, Lora(layers="0,2", targets=targets))
    adapted = adapt(model, matched, Lora(), "tiny")
    learning = {n.partition(".lora_")[0] for n, p in adapted.named_parameters() if p.requires_grad}
    assert learning == {f"base_model.model.{module}" for module in matched.modules}
    assert {int(module.split(".")[2]) for module in matched.modules} == {0, 2}
    n_targets = len(matched.targets)
    assert len(matched.modules) == 2 * n_targets


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layers": "1-9"}, "the model has no block 9. Give 0 to 2"),
        ({"layers": "0-3"}, "the model has no block 3. Give 0 to 2"),
        ({"layers": "2-1"}, "'2-1' is no block or range"),
        ({"layers": "x"}, "'x' is no block or range"),
        ({"layers": ""}, "'' is no block or range"),
        ({"layers": "auto"}, "no file of chosen layers is named"),
        ({"layers": "auto:nowhere.json"}, "no layers can be read from it"),
        ({"targets": "q,nonsense"}, "no module is called 'nonsense'. A block has self_attn.q_proj"),
        ({"targets": ""}, "it is empty"),
        ({"rank": 0}, "rank: it is 0"),
        ({"dropout": 1.0}, "dropout: it is 1.0"),
    ],
)
def test_settings_that_match_nothing_are_refused(
    llama: Case, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputProblems, match="1 problem") as caught:
        match(llama.hf, Lora(**settings))
    assert said in str(caught.value)


def test_a_part_of_a_fused_matrix_is_refused(gpt2: Case) -> None:
    with pytest.raises(InputProblems, match=r"attn.c_attn holds q,k,v in one matrix. Give q,k,v"):
        match(gpt2.hf, Lora(targets="q,o"))
    assert match(gpt2.hf, Lora(targets="attn.c_attn")).targets == ("attn.c_attn",)


def test_gpt2s_turned_weights_are_known_and_not_guessed(gpt2: Case) -> None:
    model = gpt2.fresh_hf()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT's, where it has to guess
        adapt(model, match(model, Lora()), Lora(), "x")


def test_layers_can_come_from_a_file(llama: Case, tmp_path: Path) -> None:
    path = tmp_path / "layers.json"
    path.write_text('{"layers": [2, 0], "why": "a study"}')
    assert match(llama.hf, Lora(layers=f"auto:{path}")).layers == (0, 2)
    for broken in ('{"layers": []}', '{"layers": ["1"]}', "[1]", "no"):
        path.write_text(broken)
        with pytest.raises(InputProblems, match="layers"):
            match(llama.hf, Lora(layers=f"auto:{path}"))


def test_what_is_trained_is_said_in_both_numberings(llama: Case) -> None:
    lines = match(llama.hf, Lora(layers="1-2", targets="q")).lines()
    assert lines[0].startswith("2 modules in blocks 1-2 of 0-2 (their outputs are layers 2-3")
    assert lines[1] == "model.layers.{1-2}.self_attn.q_proj"
    assert ranges([0, 3, 15, 16, 17]) == "0,3,15-17"


# --- the curve, beside Hugging Face -------------------------------------------------------------


@pytest.fixture(scope="module")
def run(llama: Case, data: Path, held_out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One undisturbed run, with two batches to a step."""
    out = tmp_path_factory.mktemp("run") / "adapter"
    spec = spec_of(llama, data, held_out, out, n_examples=2, gradient_accumulation=2, epochs=3)
    assert train(spec).ok
    return out


def examples_of(case: Case, path: Path) -> list[Any]:
    from lensbench.quantized.data.pairs import read_pairs

    words = case.model.tokenizer
    return encode(words, [2], read_pairs(path).pairs, "alpaca", 64, "x").examples


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
    evaluated = curve_of(run).eval_loss.dropna()
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

    examples, curve = examples_of(llama, data), curve_of(run).dropna(subset=["loss"])
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
            assert row.loss == pytest.approx(loss.item(), rel=2e-5)
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

    manifest, curve = manifest_of(run), curve_of(run)
    assert (manifest["kind"], manifest["status"]) == ("training", "complete")
    assert manifest["model"]["weights_sha256"] == hashes(llama.folder)["weights_sha256"]
    assert manifest["adapter"]["trainable"] == 2 * 8 * (2 * (32 + 32) + 2 * (32 + 16))
    assert len(manifest["adapter"]["modules"]) == 8
    assert manifest["settings"]["layers"] == [1, 2]
    assert (manifest["settings"]["n_train"], manifest["settings"]["n_eval"]) == (14, 4)
    assert curve.step.tolist() == [0, 1, 2, 2, 3, 4, 4, 5, 6, 6]  # a row per step and evaluation
    assert curve.epoch.iloc[-1] == 3.0
    assert (curve.tokens_per_s.dropna() > 0).all()
    assert curve.tokens_per_s.isna().tolist() == curve.loss.isna().tolist()
    kept = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    assert kept == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "examples.jsonl",
        "manifest.json",
        "problems.parquet",
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


def test_another_seed_gives_another_order(llama: Case, data: Path, tmp_path: Path) -> None:
    curves = []
    for seed in (0, 0, 1):
        out = tmp_path / f"{len(curves)}"
        train(spec_of(llama, data, None, out, seed=seed, max_steps=2))
        curves.append(curve_of(out)[EXACT])
    pd.testing.assert_frame_equal(curves[0], curves[1])
    assert curves[0].loss[0] != curves[2].loss[0]


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
    assert curve.loss.dropna().iloc[0] == pytest.approx(trained, rel=1e-5)
    evaluated = hf_mean(floats, examples_of(llama, held_out))
    assert curve.eval_loss.dropna().iloc[0] == pytest.approx(evaluated, rel=1e-5)
    assert curve.eval_loss.dropna().iloc[-1] < curve.eval_loss.dropna().iloc[0]


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


# --- interruptions ------------------------------------------------------------------------------


class Stop(Exception):
    """Raised out of the middle of a run."""


def stopping_at(step: int) -> Callable[..., None]:
    def report(what: str, done: int, total: int, loss: float | None) -> None:
        if what == "training" and done == step and loss is not None:
            raise Stop

    return report


@pytest.fixture(scope="module")
def undisturbed(
    llama: Case, data: Path, held_out: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Eight steps with dropout: a checkpoint after 3, 6 and 8, evaluations at 0, 4 and 8."""
    out = tmp_path_factory.mktemp("undisturbed") / "adapter"
    train(spec_of(llama, data, held_out, out, lora=Lora("1-2", dropout=0.1)))
    return out


def require_same(folder: Path, undisturbed: Path) -> None:
    pd.testing.assert_frame_equal(curve_of(folder)[EXACT], curve_of(undisturbed)[EXACT])
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    assert manifest_of(folder)["settings"] == manifest_of(undisturbed)["settings"]


SLOW = pytest.mark.slow


@pytest.mark.parametrize("step", [2, pytest.param(4, marks=SLOW), 5, pytest.param(8, marks=SLOW)])
def test_a_run_that_stopped_goes_on_with_the_same_curve(
    step: int, undisturbed: Path, llama: Case, data: Path, held_out: Path, tmp_path: Path
) -> None:
    spec = spec_of(llama, data, held_out, tmp_path / "a", lora=Lora("1-2", dropout=0.1))
    with pytest.raises(Stop):
        train(spec, stopping_at(step))
    assert train(spec).ok
    require_same(spec.out, undisturbed)
    assert manifest_of(spec.out)["resumed_from_step"] == ((step - 1) // 3 * 3 or None)


def test_a_torn_checkpoint_is_not_gone_on_from(
    undisturbed: Path, llama: Case, data: Path, held_out: Path, tmp_path: Path
) -> None:
    spec = spec_of(llama, data, held_out, tmp_path / "a", lora=Lora("1-2", dropout=0.1))
    with pytest.raises(Stop):
        train(spec, stopping_at(7))
    torn = spec.out / "checkpoints" / "checkpoint-6"
    (torn / "whole").unlink()  # as if the process had died while it wrote
    (torn / "optimizer.pt").write_bytes(b"half")
    train(spec)
    require_same(spec.out, undisturbed)
    assert manifest_of(spec.out)["resumed_from_step"] == 3


def test_torn_checkpoints_are_cleared_away_since_they_would_push_out_whole_ones(
    tmp_path: Path,
) -> None:
    for number, name in ((3, "whole"), (6, "optimizer.pt")):
        (tmp_path / f"checkpoint-{number}").mkdir()
        (tmp_path / f"checkpoint-{number}" / name).touch()
    drop_torn(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_a_run_whose_record_was_not_finished_only_finishes_it(
    undisturbed: Path, llama: Case, data: Path, held_out: Path, tmp_path: Path
) -> None:
    """Also where the last step is in the middle of an epoch."""
    spec = spec_of(llama, data, held_out, tmp_path / "a", max_steps=6)

    def before_examples(what: str, *_: Any) -> None:
        if what == "answering examples":
            raise Stop

    with pytest.raises(Stop):
        train(replace(spec, n_examples=1), before_examples)
    steps: list[str] = []
    train(spec, lambda what, *_: steps.append(what))
    assert "training" not in steps
    assert curve_of(spec.out).step.max() == 6


FORKING = """
import json, os, resource, signal, sys
from dataclasses import replace
from pathlib import Path
from lensbench.quantized.loading.load import load_quantized
from lensbench.quantized.adapters.lora import Lora
from lensbench.quantized.training.train import train
from lensbench.quantized.training.spec import TrainSpec
import lensbench.quantized.training.trainer, peft
load_quantized(sys.argv[1], 32, None, "cpu")
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        if order["largest_file"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"],) * 2)
        spec = order["spec"]
        paths = {key: Path(spec[key]) for key in ("data", "out", "eval_data")}
        spec = TrainSpec(**{**spec, **paths, "lora": Lora(**spec["lora"])})
        try:
            train(spec)
            os._exit(0)
        except Exception as error:
            Path(order["said"]).write_text(f"{type(error).__name__}: {error}")
            os._exit(2)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Runner:
    """Runs in processes that can be killed, forked from one that has imported everything."""

    def __init__(self, model: Path) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", FORKING, str(model)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def run(
        self, spec: TrainSpec, when: Callable[[], bool] | None = None, largest_file: int = 0
    ) -> tuple[int, str]:
        """One run, killed as soon as `when()` holds; its exit status and error."""
        import dataclasses

        assert self.server.stdin is not None
        assert self.server.stdout is not None
        said = spec.out.with_name("said.txt")
        values = dataclasses.asdict(spec)
        values |= {key: str(values[key]) for key in ("data", "out", "eval_data")}
        order = {"spec": values, "said": str(said), "largest_file": largest_file}
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        child = int(self.server.stdout.readline())
        while when is not None and not when():
            time.sleep(0.0005)
        if when is not None:
            os.kill(child, signal.SIGKILL)
        status = int(self.server.stdout.readline())
        return status, said.read_text() if said.exists() else ""


@pytest.fixture(scope="module")
def runner(llama: Case) -> Iterator[Runner]:
    made = Runner(llama.folder)
    yield made
    made.server.kill()
    made.server.wait()


@pytest.mark.parametrize(
    "sign",
    [
        "checkpoint-3/optimizer.pt",
        pytest.param("checkpoint-3/whole", marks=SLOW),
        pytest.param("checkpoint-6/adapter_config.json", marks=SLOW),
    ],
)
def test_a_run_that_was_killed_goes_on_with_the_same_curve(
    sign: str,
    runner: Runner,
    undisturbed: Path,
    llama: Case,
    data: Path,
    held_out: Path,
    tmp_path: Path,
) -> None:
    spec = spec_of(llama, data, held_out, tmp_path / "a", lora=Lora("1-2", dropout=0.1))
    status, _ = runner.run(spec, lambda: (spec.out / "checkpoints" / sign).exists())
    assert status == -signal.SIGKILL
    assert manifest_of(spec.out)["status"] == "running"
    train(spec)
    require_same(spec.out, undisturbed)


def test_a_full_disk_keeps_the_checkpoint_before(
    runner: Runner, undisturbed: Path, llama: Case, data: Path, held_out: Path, tmp_path: Path
) -> None:
    """No file may grow beyond 9 kB: the settings can be written, but no checkpoint."""
    spec = spec_of(llama, data, held_out, tmp_path / "a", lora=Lora("1-2", dropout=0.1))
    with pytest.raises(Stop):
        train(spec, stopping_at(5))
    status, said = runner.run(spec, largest_file=9_000)
    assert status == 2
    assert said.startswith("RecordsError")
    assert "checkpoint-6 cannot be written" in said
    assert "free some space and run the same command again" in said
    train(spec)
    require_same(spec.out, undisturbed)
    assert manifest_of(spec.out)["resumed_from_step"] == 3


@pytest.mark.parametrize(
    ("learning_rate", "what"), [(1e30, "The loss is"), (1e12, "The gradient norm is")]
)
def test_a_loss_that_becomes_nan_stops_and_keeps_the_last_good_checkpoint(
    learning_rate: float, what: str, llama: Case, data: Path, tmp_path: Path
) -> None:
    spec = spec_of(llama, data, None, tmp_path / "a", learning_rate=learning_rate, warmup=0.0)
    with pytest.raises(ModelError) as caught:
        train(replace(spec, checkpoint_every=1))
    said = str(caught.value)
    assert said.startswith(f"{what} nan in step 2, so")
    assert "training stopped; the last good checkpoint is" in said
    assert "smaller --learning-rate" in said
    kept = sorted((spec.out / "checkpoints").glob("checkpoint-*/whole"))
    weights = load_file(kept[-1].parent / "adapter_model.safetensors")
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
    assert manifest_of(spec.out)["status"] == "running"
    assert not (spec.out / "adapter_model.safetensors").exists()


def test_a_step_that_does_not_fit_into_memory_is_said_with_what_takes_less(
    llama: Case, data: Path, tmp_path: Path
) -> None:
    """The allocator itself refuses 4 PiB that are asked for in the middle of training."""

    def greedy(what: str, done: int, *_: Any) -> None:
        if what == "training" and done == 2:
            torch.empty(2**50)

    with pytest.raises(ModelError, match=r"too little memory .* smaller --batch-size"):
        train(spec_of(llama, data, None, tmp_path / "a"), greedy)


def test_a_second_process_is_kept_out(
    runner: Runner, llama: Case, data: Path, held_out: Path, tmp_path: Path
) -> None:
    from lensbench.records.store import RecordStore

    spec = spec_of(llama, data, held_out, tmp_path / "a")
    with RecordStore(spec.out, "x", "training").locked():
        status, said = runner.run(spec)
    assert status == 2
    assert "another process is writing this record" in said


# --- bad input ----------------------------------------------------------------------------------


def test_the_longest_example_follows_a_model_with_little_room(
    llama: Case, data: Path, tmp_path: Path
) -> None:
    spec = spec_of(llama, data, None, tmp_path / "a", max_length=None, max_steps=1)
    train(spec)
    assert manifest_of(spec.out)["settings"]["max_length"] == 64


def test_all_problems_come_at_once(llama: Case, tmp_path: Path) -> None:
    rows = [{"id": "a", "instruction": "word " * 99, "response": "x"}]
    data = write_rows(tmp_path / "long.jsonl", rows)
    spec = spec_of(
        llama,
        data,
        None,
        tmp_path / "a",
        lora=Lora(layers="7", targets="z", rank=0),
        epochs=0,
        learning_rate=0.0,
        warmup=1.0,
        max_length=65,
        device="cuda:1",
    )
    with pytest.raises(InputProblems) as caught:
        train(spec)
    said = str(caught.value)
    for part in (
        "rank: it is 0",
        "epochs: it is 0",
        "learning_rate: it is 0.0",
        "warmup: it is 1.0",
        "max_length: the model has room for 64 tokens",
        "no block 7",
        "no module is called 'z'",
        "all labels masked",
        "CUDA_VISIBLE_DEVICES=1",
    ):
        assert part in said
    assert not spec.out.exists()


def test_bad_rows_are_left_out_and_recorded(llama: Case, held_out: Path, tmp_path: Path) -> None:
    data = tmp_path / "mixed.jsonl"
    good = "\n".join(json.dumps(row) for row in ROWS[:4])
    data.write_text(good + '\nno json\n{"id": "x", "instruction": "Hi", "response": ""}\n')
    trained = train(spec_of(llama, data, held_out, tmp_path / "a", max_steps=1))
    assert not trained.ok
    assert len(trained.problems) == 2
    assert manifest_of(trained.folder)["problems"] == 2
    assert pq.read_table(trained.folder / "problems.parquet").num_rows == 2


def test_a_share_that_holds_out_nothing_is_named(llama: Case, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "one.jsonl", ROWS[:1])
    with pytest.raises(InputProblems, match=r"--eval-share 0.1: .* Give another, or 0"):
        train(spec_of(llama, data, None, tmp_path / "a", eval_share=0.1))


# --- a real model -------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.slow
def test_a_real_model_learns_a_form_of_answer_in_8_bits(
    smollm_folder: Path, tmp_path: Path
) -> None:
    numbers = [
        {"id": str(n), "instruction": f"Say {n}.", "response": f"<<{n}>>"} for n in range(24)
    ]
    data = write_rows(tmp_path / "numbers.jsonl", numbers)
    spec = TrainSpec(
        str(smollm_folder),
        data,
        tmp_path / "a",
        Lora(layers="24-29"),
        bits=8,
        device="cpu",
        epochs=4,
        batch_size=6,
        learning_rate=2e-3,
        eval_share=0.2,
        cache_prefix=True,
        n_examples=2,
    )
    train(spec)
    evaluated = curve_of(spec.out).eval_loss.dropna()
    assert evaluated.iloc[-1] < 0.5 * evaluated.iloc[0]
    said = [json.loads(line) for line in (spec.out / "examples.jsonl").read_text().splitlines()]
    assert all("<<" in row["adapter"] and "<<" not in row["base"] for row in said)
