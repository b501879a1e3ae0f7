"""An adapter is asked in the format that it was trained in, everywhere, and another one is said."""

from __future__ import annotations

import io
import json
import logging
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from lensbench.checkpoints.open import open_tokenizer
from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import ModelError
from lensbench.quantized.adapters.prompt_format import PROMPT_FORMAT, new_file, prompt_format
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.loading.merged import merge
from lensbench.quantized.style import ALPACA
from lensbench.quantized.training.spec import TrainSpec
from lensbench.quantized.training.train import train
from tests.harness.files import manifest, write_jsonl
from tests.harness.program import Program
from tests.harness.tiny import CHAT_TEMPLATE, TINY, save

ROWS = [{"id": f"p{i}", "instruction": f"Say {i}.", "response": f"so {i}"} for i in range(4)]


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a chat template, which is what a plain model is asked in."""
    folder = save(TINY["llama"], tmp_path_factory.mktemp("model") / "chatty")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def trained(chatty: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter as `train` leaves it, in its default style."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_jsonl(folder / "pairs.jsonl", ROWS)
    spec = TrainSpec(
        str(chatty), data, folder / "adapter", lora=Lora(blocks="2"), bits=32, device="cpu",
        max_length=64, epochs=1, eval_share=0.0, n_examples=0,
    )  # fmt: skip
    train(spec)
    return folder / "adapter"


def chosen(model: Path, adapter: Path | None, asked: Any = None) -> dict[str, Any]:
    ref = ModelRef.of(model, adapter=adapter, use="generation")
    found = prompt_format(ref, open_tokenizer(ref.folder), asked)
    return {"style": found.style, **found.facts()}


def test_training_saves_its_format_and_it_is_the_default(
    chatty: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "lensbench")
    assert json.loads((trained / PROMPT_FORMAT).read_text())["style"] == "alpaca"
    moved = tmp_path / "moved"  # PEFT's two files and ours: no manifest
    moved.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", PROMPT_FORMAT):
        shutil.copy(trained / name, moved)
    for adapter in (trained, moved):
        assert chosen(chatty, adapter) == {"style": "alpaca", "trained_style": "alpaca"}
    assert chosen(chatty, None) == {"style": "chat"}
    assert caplog.text == ""


def test_a_template_that_writes_the_day_is_said_and_recorded(
    chatty: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "lensbench")
    words = open_tokenizer(chatty)
    words.chat_template = "{{ strftime_now('%Y-%m-%d') }}" + str(words.chat_template)
    dated = Path(shutil.copytree(chatty, tmp_path / "dated"))
    words.save_pretrained(dated)
    today = date.today().isoformat()
    written = open_tokenizer(dated).apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=False
    )
    assert today in written
    assert chosen(dated, None) == {"style": "chat", "template_day": today}
    assert f"writes the day into prompts ({today})" in caplog.text
    caplog.clear()
    assert chosen(dated, None, "alpaca") == {"style": "alpaca"}
    assert caplog.text == ""


def test_another_format_is_said_and_recorded(
    chatty: Path, trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "lensbench")
    assert chosen(chatty, trained, "chat") == {"style": "chat", "trained_style": "alpaca"}
    assert "adapter was trained in style alpaca; this is style chat, as asked" in caplog.text


def test_a_format_that_nobody_recorded_is_said_to_be_unknown(
    chatty: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "lensbench")
    (tmp_path / "bare").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(trained / name, tmp_path / "bare")
    for asked, style in ((None, "chat"), ("none", "none")):
        caplog.clear()
        found = chosen(chatty, tmp_path / "bare", asked)
        assert found == {"style": style, "trained_style": "unknown"}
        assert "nobody recorded the prompt format that bare was trained in" in caplog.text


def test_the_manifest_of_an_older_record_says_it_too(
    chatty: Path, trained: Path, tmp_path: Path
) -> None:
    older = shutil.copytree(trained, tmp_path / "older")
    (older / PROMPT_FORMAT).unlink()
    assert chosen(chatty, older)["style"] == "alpaca"


def test_another_template_than_then_is_said(
    chatty: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "lensbench")
    words = open_tokenizer(chatty)
    copy = shutil.copytree(trained, tmp_path / "copy")
    (copy / PROMPT_FORMAT).write_bytes(new_file("chat", words))
    assert chosen(chatty, copy)["style"] == "chat"
    assert caplog.text == ""
    words.chat_template = "{{ messages[0]['content'] }}"
    (copy / PROMPT_FORMAT).write_bytes(new_file("chat", words))
    assert chosen(chatty, copy)["style"] == "chat"
    assert "another template of style chat" in caplog.text


@pytest.mark.parametrize("content", ['{"style": "polite"}', "{}", "[", "7"])
def test_a_damaged_format_is_refused(
    chatty: Path, trained: Path, tmp_path: Path, content: str
) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy")
    (copy / PROMPT_FORMAT).write_text(content)
    with pytest.raises(ModelError, match=r"is no style|is damaged"):
        chosen(chatty, copy)


def test_a_merged_model_keeps_it(chatty: Path, trained: Path, tmp_path: Path) -> None:
    done = merge(str(chatty), trained, tmp_path / "merged")
    assert chosen(done.folder, None) == {"style": "alpaca", "trained_style": "alpaca"}


def test_every_verb_asks_an_adapter_in_its_own_format(
    lensbench: Program, chatty: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`infer` and `eval` by their records; `chat` by the tokens that reach the model."""
    write_jsonl(tmp_path / "pairs.jsonl", ROWS[:2])
    (tmp_path / "p.csv").write_text("id,prompt\na,Say 1.\n")
    own = ("--adapter", trained, "--bits", 32, "--max-new-tokens", 2)
    assert lensbench("infer", chatty, "p.csv", "-o", "r.csv", *own).status == 0
    assert lensbench("eval", chatty, "--data", "pairs.jsonl", "-o", "e", *own).status == 0
    for folder in ("r.records", "e"):
        found = manifest(tmp_path / folder)
        assert (found["settings"]["style"], found["trained_style"]) == ("alpaca", "alpaca")
    asked = lensbench("infer", chatty, "p.csv", "-o", "s.csv", *own, "--style", "chat")
    assert "was trained in style alpaca; this is style chat, as asked" in asked.said

    from lensbench.quantized.generation import chat

    put: list[Any] = []
    generate = chat.generate

    def seen(model: Any, prompts: Any, *rest: Any, **how: Any) -> Any:
        put.extend(prompts)
        return generate(model, prompts, *rest, **how)

    monkeypatch.setattr(chat, "generate", seen)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    assert lensbench("chat", chatty, *own).status == 0
    ids = open_tokenizer(chatty)(ALPACA.replace("{instruction}", "Hello")).input_ids
    assert put == [ids]
