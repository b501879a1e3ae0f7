"""A folder that several machines see, by its path or URL: parts are left in it and taken out."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lensbench.cluster.address import unanswered
from lensbench.errors import InputProblems, Problem, RecordsError, first_line
from lensbench.files import write_bytes

_PATIENCE, _PATIENCE_S = "retry_limit_seconds", 60.0


class SharedFolder:
    """Files whole or absent, by names with slashes. `url`: a path, or what pyarrow.fs can open.

    s3://, gs:// and file:// are pyarrow's own; other schemes are fsspec's, where it is installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._files, self._base = _opened(url)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, all or nothing. Raises RecordsError (full, no permission)."""
        with self._reached("written"):
            if self._files is None:
                write_bytes(Path(self._base) / name, data)
                return
            path = f"{self._base}/{name}"
            self._files.create_dir(path.rpartition("/")[0], recursive=True)
            with self._files.open_output_stream(path) as stream:  # there once it is closed
                stream.write(data)

    def require_room(self) -> None:
        """Raise RecordsError, before anything is computed, where nothing can be written."""
        _require_answer(self.url)
        name = f".{uuid.uuid4().hex}"
        self.write(name, b"room")
        self.remove(name)

    def read(self, name: str) -> bytes:
        """A file's bytes. Raises RecordsError."""
        with self._reached("read"):
            if self._files is None:
                return (Path(self._base) / name).read_bytes()
            with self._files.open_input_stream(f"{self._base}/{name}") as stream:
                return bytes(stream.read())

    def remove(self, name: str) -> None:
        """Remove a file that is there. Raises RecordsError."""
        with self._reached("written"):
            if self._files is None:
                (Path(self._base) / name).unlink()
            else:
                self._files.delete_file(f"{self._base}/{name}")

    @contextmanager
    def _reached(self, how: str) -> Iterator[None]:
        """What a file system says inside, as an error that names this folder."""
        try:
            yield
        except (OSError, ValueError) as error:  # pyarrow's are either
            why = getattr(error, "strerror", None) or first_line(error).rstrip(".")
            raise RecordsError(
                f"The shared folder {self.url} cannot be {how}: {why}. What was measured is kept: "
                "see to it that it is there, that there is room, and that you and the workers may "
                "write there, or give another one, and run the same command again."
            ) from error

    def names(self, folder: str) -> list[str]:
        """The files in a folder and those within it, from there; none where it is not there."""
        from pyarrow import fs

        if self._files is None:
            home = Path(self._base) / folder
            files = [path for path in home.rglob("*") if path.is_file()]
            return sorted(path.relative_to(home).as_posix() for path in files)
        base = f"{self._base}/{folder}"
        wanted = fs.FileSelector(base, allow_not_found=True, recursive=True)
        found = [info.path for info in self._files.get_file_info(wanted) if info.is_file]
        inside = f"{base}/".lstrip("/")  # some file systems put a slash before every path
        return sorted(path.lstrip("/").removeprefix(inside) for path in found)


def _patient(url: str) -> str:
    """With an end of the patience of Google's client, which otherwise is a quarter of an hour."""
    google = url.startswith(("gs://", "gcs://")) and _PATIENCE not in url
    return f"{url}{'&' if '?' in url else '?'}{_PATIENCE}={_PATIENCE_S:g}" if google else url


def _require_answer(url: str) -> None:
    """Raise RecordsError, within seconds, where nobody listens at the address that a URL names.

    What asks there itself says nothing for minutes.
    """
    for address in parse_qs(urlsplit(url).query).get("endpoint_override", []):
        if why := unanswered(address):
            raise RecordsError(
                f"The shared folder {url} cannot be written: nothing {why}. Start the store, or "
                "give another one."
            )


def _opened(url: str) -> tuple[Any, str]:
    """pyarrow's file system and the path in it; None and a path for a folder of this machine."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return None, str(Path(url).expanduser().absolute())
    if scheme == "file":
        return None, rest
    from pyarrow import fs

    try:
        if scheme in ("s3", "gs", "gcs", "abfs", "hdfs"):
            files, path = fs.FileSystem.from_uri(_patient(url))
        else:
            import fsspec

            files, path = fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme))), rest
    except (OSError, ValueError, ImportError) as error:
        what = f"{url} cannot be opened ({str(error).splitlines()[0]})"
        remedy = "Give a folder, s3://BUCKET/PATH, gs://BUCKET/PATH, or what fsspec knows."
        raise InputProblems([Problem("shared_folder", what, remedy)]) from error
    return files, path.rstrip("/")
