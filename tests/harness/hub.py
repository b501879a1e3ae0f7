"""A hub of Hugging Face on this machine, and code that asks it in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHA = "a" * 40  # the commit that every repository is at


class Answers(BaseHTTPRequestHandler):
    """A hub's, which a subclass gives in `reply`: it says why it refuses, and logs nothing."""

    def do_GET(self) -> None:
        self.reply()

    do_HEAD = do_GET

    def reply(self) -> None:
        raise NotImplementedError

    def give(self, name: str, files: Mapping[str, bytes], kind: str = "models") -> bool:
        """Answer what is asked of a repository that holds these files; False: it was of others."""
        path, place = self.path.split("?")[0], name if kind == "models" else f"{kind}/{name}"
        if path in (f"/api/{kind}/{name}", f"/api/{kind}/{name}/revision/main"):
            siblings = [{"rfilename": file, "size": len(data)} for file, data in files.items()]
            about = {"id": name, "sha": SHA, "siblings": siblings}
            self._send(json.dumps(about).encode(), "application/json")
            return True
        if path == f"/api/{kind}/{name}/tree/{SHA}":
            tree = [
                {"type": "file", "path": file, "size": len(data), "oid": SHA}
                for file, data in files.items()
            ]
            self._send(json.dumps(tree).encode(), "application/json")
            return True
        for file, data in files.items():
            if path in (f"/{place}/resolve/{SHA}/{file}", f"/{place}/resolve/main/{file}"):
                self._send(data, "application/octet-stream")
                return True
        return False

    def _send(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", SHA)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

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
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
