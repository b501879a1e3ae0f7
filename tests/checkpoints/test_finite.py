"""NaN and Inf in the weights are found wherever they stand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lensbench.checkpoints.finite import require_finite
from lensbench.errors import ModelError


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (5, 3), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_number_is_looked_at(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    model: Any = nn.Module()
    model.dtype = dtype
    model.weight = nn.Parameter(torch.ones(shape, dtype=dtype))
    require_finite(model, "m")
    for place in range(model.weight.numel()):
        for bad in (math.nan, math.inf, -math.inf):
            with torch.no_grad():
                model.weight.view(-1)[place] = bad
            with pytest.raises(ModelError, match="NaN or Inf in the weights of weight"):
                require_finite(model, "m")
        with torch.no_grad():
            model.weight.view(-1)[place] = 1
