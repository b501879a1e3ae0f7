"""A hub of Hugging Face on this machine, and code that asks it in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Answers(BaseHTTPRequestHandler):
    """A hub's, which a subclass gives in `reply`: it says why it refuses, and logs nothing."""

    def do_GET(self) -> None:
        self.reply()

    do_HEAD = do_GET

    def reply(self) -> None:
        raise NotImplementedError

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server whose requests `handler` answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def apart(code: str, *arguments: str, **environment: str) -> str:
    """What Python code writes in a process of its own, without proxies.

    The hub's client reads its settings when it is imported.
    """
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "")
    proxies |= {name.lower(): "" for name in proxies}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **proxies, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
