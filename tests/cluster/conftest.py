"""Clusters of these tests ask for a token, and all have the same: a process reads it once."""

from __future__ import annotations

import os

os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
