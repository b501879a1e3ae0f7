"""Adapters that begin with a part of their base's weights, made into ones that leave it alone.

PiSSA (Meng et al. 2024, arXiv 2404.02948) and OLoRA (Buyukakyuz 2024, arXiv 2406.01775) begin with
factors of the weight W itself and train scale * B A on W - scale * B0 A0. PEFT writes that into the
base whenever such an adapter is put on, and there it stays when the adapter is switched off. The
same model is W with the update scale * [B, -B0] [A; A0], a LoRA of twice the rank: its base is the
base.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import ModelError
from lensbench.quantized.precision import is_linear

if TYPE_CHECKING:
    from torch import nn

Factors = tuple[Float[Tensor, "out rank"], Float[Tensor, "rank in"]]  # B, A
Weights = dict[str, Tensor]  # an adapter's tensors by name

KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
# What these begin with changes no weight: B or A is zero, or nothing is taken out of the base.
_HARMLESS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


def scale_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) for a rank-stabilised adapter (Kalajdzievski 2023)."""
    from peft.utils.other import get_pattern_key

    pattern = config.get("alpha_pattern") or {}
    alpha = pattern.get(get_pattern_key(pattern.keys(), module), config["lora_alpha"])
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def changes_base(config: Mapping[str, Any]) -> bool:
    """Whether an adapter's update can only be told with its base at hand."""
    return config.get("init_lora_weights", True) not in _HARMLESS


def leaving_base_alone(
    folder: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    base: Callable[[], nn.Module] | None,
) -> tuple[dict[str, Any], Weights]:
    """Config and tensors of the adapter in `folder` as a LoRA that changes nothing of its base.

    `base` gives the base's weights as they are stored; it is asked for them only where they are
    needed. Raises ModelError where they are and there is no base, for a module that it does not
    have, and for an initialisation that cannot be repeated.
    """
    plain = {**config, "init_lora_weights": True}
    if not changes_base(config):
        return plain, dict(weights)
    began = _repeatable(folder, config)
    if base is None:
        raise ModelError(
            f"{folder} began with its base's own weights ({config['init_lora_weights']}), so what "
            "it changes can only be told with the base. Name it with --model."
        )
    model, made = base(), dict(weights)
    for key, down in weights.items():
        found = KEY.fullmatch(key)
        other = key.replace(".lora_A.", ".lora_B.")
        if found is None or found["factor"] != "A" or other not in weights:
            continue
        module, up = found["module"], weights[other]
        weight = _weight(folder, model, module)
        if (up.shape[0], down.shape[1]) != weight.shape:
            raise ModelError(f"{folder} does not fit {module}, which is {tuple(weight.shape)}.")
        rank = down.shape[0]
        first_up, first_down = began(weight, rank, scale_of(config, module, rank))
        made[key] = torch.cat([down.float(), first_down.cpu()])
        made[other] = torch.cat([up.float(), -first_up.cpu()], 1)
    return plain | _twice_the_rank(config), made


def _repeatable(
    folder: Path, config: Mapping[str, Any]
) -> Callable[[Float[Tensor, "out in"], int, float], Factors]:
    """What an adapter began with. Raises ModelError where nobody can tell it again."""
    init, dora = config["init_lora_weights"], bool(config.get("use_dora"))
    known = {"pissa": pissa, "olora": olora}
    if init in known and not dora:
        return known[init]
    how = f"{init} with DoRA" if dora else str(init)
    raise ModelError(
        f"{folder} began with {how}, which changed its base by what cannot be made again from the "
        "base and the adapter. Save it with PEFT's path_initial_model_for_weight_conversion, or "
        "merge it with PEFT where it was trained and load the merged model."
    )


def pissa(weight: Float[Tensor, "out in"], rank: int, scale: float) -> Factors:
    """The largest `rank` singular components of a weight, shared out evenly, without the scale."""
    left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
    root = (values[:rank] / scale).sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def olora(weight: Float[Tensor, "out in"], rank: int, scale: float) -> Factors:
    """The first `rank` columns of Q and rows of R; PEFT takes them off times the scale."""
    q, r = torch.linalg.qr(weight.float())
    return q[:, :rank], r[:rank]


def _weight(folder: Path, model: nn.Module, module: str) -> Float[Tensor, "out in"]:
    """A linear layer's weight. GPT-2's own layers keep it the other way round."""
    layer: Any = dict(model.named_modules()).get(module)
    if layer is None or not is_linear(layer):
        raise ModelError(f"The model has no linear layer {module}, which {folder} updates.")
    weight = layer.weight.detach()
    return weight if isinstance(layer, torch.nn.Linear) else weight.T


def _twice_the_rank(config: Mapping[str, Any]) -> dict[str, Any]:
    """Ranks doubled, and alphas so that every scale stays."""
    by = math.sqrt(2) if config.get("use_rslora") else 2
    return {
        "r": 2 * config["r"],
        "lora_alpha": by * config["lora_alpha"],
        "rank_pattern": {key: 2 * r for key, r in (config.get("rank_pattern") or {}).items()},
        "alpha_pattern": {key: by * a for key, a in (config.get("alpha_pattern") or {}).items()},
    }
