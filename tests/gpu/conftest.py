"""The accelerators that are compared with the CPU. Where there is none, every test here is skipped.

LENSBENCH_TEST_DEVICE names one device, which has to be there; "cpu" proves the tests themselves.
"""

from __future__ import annotations

import os

import pytest

ASKED = os.environ.get("LENSBENCH_TEST_DEVICE")


@pytest.fixture(scope="session", params=[ASKED] if ASKED else ["cuda", "mps"])
def device(request: pytest.FixtureRequest) -> str:
    """A device by its name."""
    from lensbench.checkpoints.devices import pick_device
    from lensbench.errors import ModelError

    try:
        return pick_device(request.param)
    except ModelError as error:
        if ASKED:
            raise
        pytest.skip(str(error))
