"""An adapter folder: what base it belongs to, and putting it onto that base only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MANIFEST = "manifest.json"


def attach(model: PreTrainedModel, folder: Path, weights_sha256: str) -> Any:
    """`model` with the adapter in `folder` on it, in evaluation mode.

    Raises ModelError when the adapter was trained on other weights than `weights_sha256`.
    """
    from peft import PeftModel

    _require_base(folder, weights_sha256)
    return PeftModel.from_pretrained(model, folder, is_trainable=False).eval()


def _require_base(folder: Path, weights_sha256: str) -> None:
    path = folder / MANIFEST
    base = json.loads(path.read_text(encoding="utf-8"))["model"]["weights_sha256"]
    if base != weights_sha256:
        raise ModelError(
            f"{folder}: this adapter was trained on other weights ({base[:12]}) than those loaded "
            f"({weights_sha256[:12]}). Load the model that its {MANIFEST} names."
        )
