"""Opening a checked folder with Hugging Face's own classes: config, weights, tokenizer."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lensbench.checkpoints.config.agreement import require_agreement
from lensbench.checkpoints.config.check import check_config, read_config
from lensbench.checkpoints.config.encoders import holds_encoder, is_encoder
from lensbench.checkpoints.gguf import gguf_config, gguf_tokenizer
from lensbench.checkpoints.source import gguf_file
from lensbench.context import holding
from lensbench.errors import ModelError, first_line, refused_by_library

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

COPY = "Copy it from the source again."
_MOST_MODULES = 200_000  # a mixture of 384 experts in each of 61 blocks has 100,000


def open_config(
    folder: Path, allow_fields: Collection[str] | None = None, trust_remote_code: bool = False
) -> Any:
    """The config of the text model, which is all there is unless the model is multimodal.

    Raises ModelError when it holds a field whose effect nobody has checked, or says a thing twice
    and otherwise, or when transformers cannot run the text model of a multimodal one alone.
    """
    gguf = gguf_file(folder)
    if gguf is not None:
        return gguf_config(gguf)
    if holds_encoder(folder):  # before what is said of fields: no option makes it a decoder
        raise no_decoder(read_config(folder)[0]["model_type"])
    said = check_config(folder, allow=allow_fields, trust_remote_code=trust_remote_code)
    config = text_config(whole_config(folder, trust_remote_code))
    if not hasattr(config, "auto_map"):  # code that travels along gives fields its own meaning
        require_agreement(said, config, folder / "config.json")
    return config


def whole_config(folder: Path, trust_remote_code: bool = False) -> Any:
    """The config as it is stored, towers for images and sound included.

    Raises ModelError where transformers refuses it.
    """
    from transformers import AutoConfig

    what = f"{folder / 'config.json'}: the installed transformers cannot read it"
    remedy = "Copy it from the source again, or update transformers."
    with refused_by_library(what, remedy), _own_code(folder):
        return AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )


@contextmanager
def _own_code(where: object) -> Iterator[None]:
    """Raise ModelError where code that was to travel along is not there."""
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"{where}: its files name code that is not beside them ({first_line(error)}). Copy all "
            "of the model's files, or do without its code (no --trust-remote-code)."
        ) from error


def with_new_weights(auto_class: Any, config: Any, seed: int, **how: Any) -> PreTrainedModel:
    """A model of a config as before any training; the seed alone decides its weights.

    `auto_class` and `how`: of transformers, the one whose `from_config` takes the others.
    """
    with torch.random.fork_rng(devices=[]), quiet():  # nobody else's numbers change
        torch.default_generator.manual_seed(seed)  # the CPU's, and no accelerator's
        model: PreTrainedModel = auto_class.from_config(config, **how)
    return model


def text_config(config: Any) -> Any:
    """The text model's part of a config."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if is_encoder(config):
        raise no_decoder(config.model_type)
    text = config.get_text_config(decoder=True)
    own_code = hasattr(config, "auto_map")
    if type(text) in MODEL_FOR_CAUSAL_LM_MAPPING or (text is config and own_code):
        return text
    if text is config:
        raise ModelError(
            f"The installed transformers has no causal language model of type {config.model_type}. "
            "Take another model, or update transformers."
        )
    raise ModelError(
        f"This is a multimodal model ({config.model_type}), and the installed transformers cannot "
        f"run its text model ({text.model_type}) alone, which is what lensbench reads. Take a "
        "text-only model."
    )


def no_decoder(model_type: str) -> ModelError:
    """What is said of a text encoder where a next token is wanted."""
    return ModelError(
        f"This is a text encoder ({model_type}), no causal language model: it reads a text both "
        "ways and says no next token, so that no lens reads it. What its heads look at, `lensbench "
        "attention` shows; for all else take a decoder."
    )


def empty_model(config: Any, trust_remote_code: bool = False) -> PreTrainedModel:
    """The architecture with all its shapes and no weights: it takes no memory.

    Raises ModelError for a config of which no model can be made, or an endless one.
    """
    from transformers import AutoModelForCausalLM

    with building(config), _own_code(config.name_or_path):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


@contextmanager
def building(config: Any) -> Iterator[None]:
    """Make a model without weights inside, of no more modules than any model has."""
    from torch.nn.modules.module import register_module_module_registration_hook as watch

    count = itertools.count(1)

    def bounded(*_: Any) -> None:
        if next(count) > _MOST_MODULES:
            raise ModelError(
                f"config.json describes a model of more than {_MOST_MODULES:,} modules, which no "
                f"published one has. {COPY}"
            )

    watching = watch(bounded)
    try:
        what = f"the config of a {config.model_type} describes no model that can be built"
        with torch.device("meta"), refused_by_library(what, COPY):
            yield
    finally:
        watching.remove()


_counted: dict[tuple[type, str], int] = {}


def count_parameters(config: Any, trust_remote_code: bool = False) -> int:
    """Parameters of the architecture, counted without allocating any; once for what it says."""
    key = type(config), config.to_json_string(use_diff=False)
    if key not in _counted or trust_remote_code:  # whose code may be another by now
        _counted[key] = int(empty_model(config, trust_remote_code).num_parameters())
    return _counted[key]


Tokenizers = MutableMapping[Path, "PreTrainedTokenizerBase"]
_opened: ContextVar[Tokenizers | None] = ContextVar("opened", default=None)


def opened(tokenizers: Tokenizers) -> AbstractContextManager[object]:
    """Inside, who opens the tokenizer of one of these folders first takes it out of here."""
    return holding(_opened, tokenizers)


def open_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer beside the weights, or the one inside the GGUF file."""
    from transformers import AutoTokenizer

    there = None if trust_remote_code else _opened.get()
    if there and folder in there:
        return there.pop(folder)
    gguf = gguf_file(folder)
    if gguf is not None:
        return gguf_tokenizer(gguf)
    what = f"{folder} holds no tokenizer that can be read"
    with refused_by_library(what, COPY), _own_code(folder):
        return AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )


@contextmanager
def _logged_above(level: int) -> Iterator[None]:
    """Only what is more urgent than a level is logged, whoever logs."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the libraries' progress bars and advice; their errors still come as exceptions."""
    import transformers

    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with _logged_above(logging.WARNING):
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()


@contextmanager
def aloud() -> Iterator[None]:
    """Inside `quiet`: what lensbench itself has to say of a model is said all the same."""
    with _logged_above(logging.NOTSET):
        yield
