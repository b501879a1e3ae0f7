"""Whether somebody answers at an address, within seconds: what would ask waits for minutes."""

from __future__ import annotations

import socket

_ANSWER_S = 5.0


def unanswered(address: str) -> str:
    """Why nobody answers at HOST:PORT, to go on with; empty where somebody listens."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S):
            return ""
    except (OSError, OverflowError, ValueError) as error:
        return f"answers at {address} within {_ANSWER_S:g} s ({error})"
