"""The methods there are, by name. To add one: a file that makes a `Method`, a line here, its name
in `lens/fitted/place.py`."""

from __future__ import annotations

from typing import Any

from lensbench.fitting.jacobian_lens import JACOBIAN
from lensbench.fitting.linear_lens import LINEAR
from lensbench.fitting.method import Method
from lensbench.fitting.tuned_lens import TUNED
from lensbench.lens.fitted import place

METHODS: dict[place.Method, Method[Any]] = {
    "linear": LINEAR,
    "tuned": TUNED,
    "jacobian": JACOBIAN,
}
