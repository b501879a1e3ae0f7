"""Embedding: texts in, unit vectors out, by a sentence-transformers model that has an identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from lensbench.checkpoints.devices import pick_device
from lensbench.checkpoints.hashes import modules_sha256, weights_sha256
from lensbench.checkpoints.open import quiet
from lensbench.checkpoints.source import packaged_folder
from lensbench.errors import InputProblems, MissingExtraError, ModelError, Problem
from lensbench.json_text import read_json
from lensbench.quantized.rag.passages import pieces

DEFAULT_MODEL = "all-minilm-l6-v2"  # the one in the package of the same name
_HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
_HUB_NEVER = ("onnx/*", "openvino/*")
_OWN_MODULES = "sentence_transformers."

Task = Literal["document", "query"]


@dataclass(frozen=True)
class Embedder:
    """An embedding model. `name` is for people; `sha256`, of its weights, and
    `modules_sha256`, of what stands before and behind them, are its identity.

    `place` is what was asked for (the default, a hub name or a folder), to find it again.
    """

    name: str
    place: str
    sha256: str
    modules_sha256: str
    model: Any = field(repr=False)  # a SentenceTransformer

    @property
    def dimension(self) -> int:
        """Numbers per vector."""
        return int(self.model.get_embedding_dimension())

    @cached_property
    def limit(self) -> int:
        """Tokens that a text may have: the model's maximum less what it adds itself."""
        tokenizer = self.model.tokenizer
        longest = self.model.max_seq_length or tokenizer.model_max_length
        prompts = [self.count(prompt) for prompt in self.model.prompts.values() if prompt]
        return int(longest - tokenizer.num_special_tokens_to_add() - max(prompts, default=0))

    def count(self, text: str) -> int:
        """Tokens of a text, special ones not counted."""
        return len(self.model.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def embed(
        self, texts: Sequence[str], task: Task = "document"
    ) -> Float[np.ndarray, "text dimension"]:
        """Unit vectors, float32, computed in batches of similar length.

        A text beyond the model's limit is not truncated: its vector is the mean of those of its
        pieces, made a unit vector again.
        """
        parts = [pieces(text, self.limit, self.count) for text in texts]
        flat = [piece for piece_list in parts for piece in piece_list]
        if not flat:
            return np.zeros((0, self.dimension), np.float32)
        encode = self.model.encode_query if task == "query" else self.model.encode_document
        vectors = encode(flat, normalize_embeddings=True, show_progress_bar=False)
        starts = np.cumsum([0, *map(len, parts)])[:-1]
        means = np.add.reduceat(np.asarray(vectors, np.float32), starts)
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def load_embedder(name: str | None = None, device: str | None = None) -> Embedder:
    """Load an embedding model: the default, a hub name (org/model), or a folder.

    Safetensors only, no code from the model's folder; the network is used for a hub name that is
    not in the Hugging Face cache, and for nothing else.
    Raises ModelError, MissingExtraError, or InputProblems with all that is wrong with a folder.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError("sentence-transformers", "rag") from error
    name = name or DEFAULT_MODEL
    folder = embedder_folder(name)
    _require_safe(folder)
    with quiet():
        model = SentenceTransformer(
            str(folder),
            device=pick_device(device),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": "float32"},
        )
    local = Path(name).expanduser().is_dir()
    shown, place = (folder.name, str(folder)) if local else (name, name)
    return Embedder(shown, place, weights_sha256(folder), modules_sha256(folder), model.eval())


def embedder_folder(name: str) -> Path:
    if name == DEFAULT_MODEL:
        return packaged_folder(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if name.count("/") == 1 and all(name.split("/")) and not name.startswith((".", "~")):
        return _hub_folder(name)
    raise ModelError(
        f"There is no embedding model {name!r}. Give {DEFAULT_MODEL}, a folder that is there, "
        "or a hub name like sentence-transformers/all-MiniLM-L6-v2."
    )


def _hub_folder(name: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    wanted: dict[str, Any] = {"allow_patterns": _HUB_FILES, "ignore_patterns": _HUB_NEVER}
    try:
        return Path(snapshot_download(name, local_files_only=True, **wanted))
    except errors.LocalEntryNotFoundError:
        pass  # not fetched yet
    except errors.HFValidationError as error:
        raise ModelError(f"{name!r} is not a hub name like org/model: {error}") from error
    try:
        return Path(snapshot_download(name, **wanted))
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.HTTPError) as error:
        raise ModelError(
            f"{name} is not on this machine and could not be fetched from the Hugging Face hub "
            f"({str(error).splitlines()[0]}). Try again later, or leave --model out: "
            f"{DEFAULT_MODEL} needs no hub."
        ) from error


def _require_safe(folder: Path) -> None:
    """Raise InputProblems unless all weights are safetensors and all modules the library's own."""
    problems = []
    if not any(folder.glob("*.safetensors")):
        what = "there are no *.safetensors weights"
        problems.append(Problem(str(folder), what, "Give a sentence-transformers model's folder."))
    for pickle in sorted(folder.glob("*_*/*.bin")):
        if not pickle.with_name("model.safetensors").exists():
            what = "its weights are a pickle, which could run code"
            problems.append(Problem(str(pickle), what, "Save the model as safetensors."))
    listed = folder / "modules.json"
    for kind in _modules(listed) if listed.exists() else []:
        if not kind.startswith(_OWN_MODULES):
            what = f"the module {kind} is not sentence-transformers' own"
            problems.append(Problem(str(listed), what, "Use a model without code of its own."))
    if problems:
        raise InputProblems(problems)


def _modules(listed: Path) -> list[str]:
    """The kinds of module that an embedding model says it consists of."""
    try:
        return [str(module["type"]) for module in read_json(listed)]
    except (ValueError, TypeError, KeyError) as error:
        what = f"it is no list of modules ({error!r})"
        raise InputProblems(
            [Problem(str(listed), what, "Copy it from the source again.")]
        ) from error
