"""Fixtures that need a model: one tiny checkpoint per family, and the real demo models."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import settings

from tests.harness.forks import Forks
from tests.harness.program import Program, program
from tests.harness.tiny import TINY, Case, save

if TYPE_CHECKING:
    from lensbench.models.model import LensModel
    from lensbench.quantized.rag.embedding import Embedder

PULLED = ("smollm2-135m", "mon-tokenizer")  # by `make test`

# Both before torch and transformers are imported. Nothing in the tests may reach a hub; and on
# tensors this small, a second thread costs more than it brings, many times more on a busy machine.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in its background has them, and all they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, and no time limit on any: a busy machine is no failure.
settings.register_profile(
    "lensbench", deadline=None, derandomize=True, database=None, max_examples=50
)
settings.load_profile("lensbench")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: while one waits for a disk or a browser, another runs."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_finish() -> None:
    """Python need not look again at what lives to the end: the tests themselves, and all modules.

    It looks for garbage at every model that is loaded, and most of what it would find is this.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def lensbench(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Program:
    """The program itself, in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return program(monkeypatch, capfd)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Runs in processes of their own, to be killed."""
    started = Forks()
    yield started
    started.close()


@pytest.fixture(scope="session")
def tiny_case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """A family's checkpoint by its name in `TINY`, made once a session."""
    cases: dict[str, Case] = {}

    def get(name: str) -> Case:
        if name not in cases:
            folder = tmp_path_factory.mktemp("tiny") / name
            cases[name] = Case(name, TINY[name], save(TINY[name], folder))
        return cases[name]

    return get


@pytest.fixture(scope="session", params=list(TINY))
def family(request: pytest.FixtureRequest, tiny_case: Callable[[str], Case]) -> Case:
    """Every family in turn."""
    return tiny_case(request.param)


@pytest.fixture(scope="session")
def llama(tiny_case: Callable[[str], Case]) -> Case:
    """One family, where one is enough. Its tokenizer is of SentencePiece's kind, with BOS."""
    return tiny_case("llama")


@pytest.fixture(scope="session")
def gpt2(tiny_case: Callable[[str], Case]) -> Case:
    """A LayerNorm family. Its tokenizer is a byte-level BPE without BOS."""
    return tiny_case("gpt2")


@pytest.fixture(scope="session")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with finite weights that gives NaN for every prompt that says "Rome"."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    folder = save(TINY["stablelm"], tmp_path_factory.mktemp("overflow") / "stablelm")
    (rome,) = AutoTokenizer.from_pretrained(folder)(" Rome").input_ids
    weights = load_file(folder / "model.safetensors")
    row = weights["model.embed_tokens.weight"][rome]
    row.copy_(torch.where(row > 0, 3e38, -3e38))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def missing(name: str) -> NoReturn:
    """Skips the test for something that was not pulled, but fails in CI, where `make test` is."""
    message = f"{name} is not in the cache; fetch it with: lensbench pull {name}"
    if os.environ.get("CI") and name in PULLED:
        pytest.fail(message)
    pytest.skip(message)


def real_folder(alias: str) -> Path:
    """The folder of a demo model, where it was pulled."""
    from lensbench.checkpoints.source import locate

    return locate(alias).folder or missing(alias)


@pytest.fixture(scope="session")
def smollm_folder() -> Path:
    """The demo model's folder. Use with @pytest.mark.real."""
    return real_folder("smollm2-135m")


@pytest.fixture(scope="session")
def smollm(smollm_folder: Path) -> LensModel:
    """The demo model in float32. Use with @pytest.mark.real."""
    from lensbench.models.load import load_model

    return load_model("smollm2-135m", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def gemma3_folder() -> Path:
    """Gemma 3 270M, where somebody fetched it. Use with @pytest.mark.real."""
    return real_folder("gemma3-270m")


@pytest.fixture(scope="session")
def mon_tokenizer() -> None:
    """The tokenizer without a model. Use with @pytest.mark.real."""
    from lensbench.tokenisation.packaged import PACKAGED

    if not PACKAGED["mon-tokenizer"].is_here:
        missing("mon-tokenizer")


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    """A tiny random embedding model on disk and loaded."""
    from lensbench.quantized.rag.embedding import load_embedder
    from tests.harness.tiny_bert import save_bert

    return load_embedder(str(save_bert(tmp_path_factory.mktemp("bert"))), "cpu")


@pytest.fixture(scope="session")
def postgresql() -> None:
    """Skips the test where root's PostgreSQL, run as another user, may not enter this checkout."""
    from lensbench.errors import RecordsError
    from lensbench.quantized.rag.server import require_programs

    try:
        require_programs()
    except RecordsError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def open_folder(postgresql: None) -> Iterator[Path]:
    """An empty folder that other users may enter: root's PostgreSQL runs as one of them."""
    with tempfile.TemporaryDirectory(prefix="lensbench test ", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def database_address(postgresql: None) -> Iterator[str]:
    """A PostgreSQL server with pgvector, reached by its address."""
    from lensbench.quantized.rag.server import serving

    with tempfile.TemporaryDirectory(prefix="lensbench-test-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        with serving(Path(name)) as address:
            socket = dict(part.split("=", 1) for part in address.split())["host"]
            yield f"postgresql://postgres@/postgres?host={socket}&port=5432"
