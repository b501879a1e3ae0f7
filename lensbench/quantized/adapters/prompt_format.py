"""The prompt format that an adapter was trained in: saved beside it, and its default from then on.

An adapter that answers in one format is another model in another one, and nothing in PEFT's own
files says which it was. A model that an adapter was merged into keeps the adapter's.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import ModelError
from lensbench.prompts.template_day import template_day
from lensbench.quantized.adapters.adapter import CONFIG, MANIFEST, read_json
from lensbench.quantized.style import ALPACA, Style, default_style

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_FORMAT = "prompt_format.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptFormat:
    """How prompts are put to a model, and the format that it was trained in, if that is known."""

    style: Style
    trained: Style | Literal["unknown"] | None  # None: a plain model has none
    day: str | None = None  # that the chat template writes into prompts

    def facts(self) -> dict[str, Any]:
        """What a record's manifest says besides the style; mostly nothing of a plain model."""
        trained = {"trained_style": self.trained} if self.trained else {}
        return trained | ({"template_day": self.day} if self.day else {})


def prompt_format(
    ref: ModelRef, tokenizer: PreTrainedTokenizerBase, asked: Style | None
) -> PromptFormat:
    """The style that was asked for; else the adapter's own; else the model's default.

    A warning says where it is not the one that the adapter was trained in, or nobody knows, and
    where its chat template writes today's date.
    Raises ModelError where the record of it is damaged.
    """
    found = _format(ref, tokenizer, asked)
    return replace(found, day=template_day(tokenizer)) if found.style == "chat" else found


def _format(ref: ModelRef, tokenizer: PreTrainedTokenizerBase, asked: Style | None) -> PromptFormat:
    folder = ref.adapter or ref.folder
    beside = ref.adapter is None and (folder / CONFIG).is_file()  # then the format is that one's
    saved, name = None if beside else saved_format(folder), folder.resolve().name
    if saved is None:
        style = asked or default_style(tokenizer)
        if ref.adapter is None:
            return PromptFormat(style, None)
        _log.warning(
            "nobody recorded the prompt format that %s was trained in; this is style %s, %s",
            name,
            style,
            "as asked" if asked else "the model's default (--style takes another)",
        )
        return PromptFormat(style, "unknown")
    trained = saved["style"]
    style = asked or trained
    if style != trained:
        _log.warning("%s was trained in style %s; this is style %s, as asked", name, trained, style)
    elif saved["template_sha256"] not in (None, _digest(style, tokenizer)):
        _log.warning("%s was trained with another template of style %s than this", name, style)
    return PromptFormat(style, trained)


def saved_format(folder: Path) -> dict[str, Any] | None:
    """What is recorded beside an adapter: its style, and the hash of the style's template then.

    Raises ModelError when the file is damaged, or names no style of lensbench's.
    """
    path, manifest = folder / PROMPT_FORMAT, folder / MANIFEST
    found: dict[str, Any] = {}
    if path.is_file():
        found = read_json(path)
        if found.get("style") not in get_args(Style):
            known = ", ".join(get_args(Style))
            raise ModelError(f"{path}: {found.get('style')!r} is no style. Write one of {known}.")
    elif manifest.is_file():  # an older lensbench wrote no more
        settings = read_json(manifest).get("settings")
        found = settings if isinstance(settings, dict) else {}
    if found.get("style") not in get_args(Style):
        return None
    return {"style": found["style"], "template_sha256": found.get("template_sha256")}


def new_file(style: Style, tokenizer: PreTrainedTokenizerBase) -> bytes:
    """The file that is written beside an adapter."""
    return file_of({"style": style, "template_sha256": _digest(style, tokenizer)})


def file_of(saved: dict[str, Any]) -> bytes:
    """What `saved_format` found, as a file."""
    return (json.dumps(saved, indent=2, sort_keys=True) + "\n").encode()


def _digest(style: Style, tokenizer: PreTrainedTokenizerBase) -> str:
    """Of the text that a style puts around an instruction."""
    templates = {"none": "", "alpaca": ALPACA, "chat": tokenizer.chat_template}
    text = templates[style]
    whole = text if isinstance(text, str) else json.dumps(text, sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()
