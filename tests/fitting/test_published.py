"""Lenses that others published: tuned-lens' own numbers, TransformerLens' own readout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lensbench import logit_lens, open_record
from lensbench.errors import InputProblems, RecordsError
from lensbench.lens.fitted.published import unembed_hashes
from lensbench.models.load import load_model
from lensbench.report.build import build_report
from lensbench.studies.lens import run
from lensbench.studies.specs.lens import RunSpec
from tests.harness.facts import facts_rows
from tests.harness.files import manifest, tables, write_csv
from tests.harness.program import Program
from tests.harness.tiny import SENTENCES, Case

HERE = Path(__file__).parent / "published"
CONFIG = json.loads((HERE / "config.json").read_text())


@pytest.fixture
def gpt2(tiny_case: Callable[[str], Case]) -> Case:
    return tiny_case("gpt2")


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """The folder that the tuned-lens library wrote (published/make.py)."""
    folder = tmp_path / "theirs"
    shutil.copytree(HERE, folder)
    return folder


def changed(folder: Path, tensors: dict[str, Any] | None = None, **config: Any) -> Path:
    """The same with other parameters or another config."""
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    if tensors is not None:
        params = torch.load(folder / "params.pt", weights_only=True)
        torch.save(params | tensors, folder / "params.pt")
    return folder


# --- tuned-lens ---------------------------------------------------------------------------------


def test_a_tuned_lens_reads_what_its_own_library_reads(gpt2: Case, tuned: Path) -> None:
    expected = json.loads((HERE / "expected.json").read_text())
    model = load_model(gpt2.folder, device="cpu")
    frame = logit_lens(
        model, [expected["token_ids"]], lens=[tuned], positions="all", top_k=5
    ).to_pandas()
    assert len(frame) == (model.n_layers + 1) * len(expected["token_ids"])
    for row in frame[frame.layer < model.n_layers].itertuples():
        assert list(row.top_ids) == expected["top_ids"][row.layer][row.position]
        found = torch.tensor(row.top_probs).log().tolist()
        theirs = expected["top_log_probs"][row.layer][row.position]
        assert found == pytest.approx(theirs, rel=1e-4, abs=1e-4)


def test_its_hash_is_that_of_the_head(gpt2: Case) -> None:
    """In half precision too, which the hash is made to bear."""
    for dtype in ("float32", "bfloat16"):
        model = load_model(gpt2.folder, device="cpu", dtype=dtype)
        assert CONFIG["unembed_hash"] in unembed_hashes(model.readout.W_U)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unembed_hash": "0" * 64}, "unembed_hash: 000000000000... there"),
        ({"lens_type": "mlp"}, "lens_type mlp"),
        ({"num_hidden_layers": 4}, r"no parameters .* of 4 layers .*3\.bias \(32,\)"),
        ({"d_model": 16}, r"width 16 .*0\.bias"),
        ({"bias": False}, r"0\.bias \(32,\)"),
        ({"num_hidden_layers": "many"}, "no config of a tuned lens"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    gpt2: Case, tuned: Path, changes: dict[str, Any], said: str
) -> None:
    model = load_model(gpt2.folder, device="cpu")
    with pytest.raises(RecordsError, match=said):
        logit_lens(model, "Rome", lens=[changed(tuned, **changes)])


def test_a_lens_of_another_model_is_refused_where_it_shows(
    tiny_case: Callable[[str], Case], tuned: Path, tmp_path: Path
) -> None:
    """By the head where shapes are alike, by width and depth where they are not."""
    llama = load_model(tiny_case("llama").folder, device="cpu")
    with pytest.raises(RecordsError, match=r"(?s)another model.*unembed_hash.*tiny-gpt2"):
        logit_lens(llama, "Rome", lens=[tuned])
    eye = torch.eye(8)
    torch.save({"J": {0: eye, 1: eye}, "n_prompts": 1, "d_model": 8}, jacobian_file(tmp_path))
    with pytest.raises(RecordsError, match="d_model: 8 there, 32 now"):
        logit_lens(llama, "Rome", lens=[tmp_path / "jlens"])


def test_without_a_hash_all_that_is_not_known_is_said(
    gpt2: Case, tuned: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(gpt2.folder, device="cpu", name="named-anew")
    lens = changed(tuned, unembed_hash=None)
    logit_lens(model, ["Rome", "The river Rhine flows"], lens=[lens], batch_tokens=1)
    (said,) = [r.getMessage() for r in caplog.records if "published" in r.getMessage()]
    assert "Checked: its width and layers. It cannot be checked" in said
    assert "for tiny-gpt2, and reads named-anew" in said


def test_numbers_that_are_none_are_refused(gpt2: Case, tuned: Path) -> None:
    model = load_model(gpt2.folder, device="cpu")
    lens = changed(tuned, {"1.bias": torch.full((32,), torch.nan)})
    with pytest.raises(RecordsError, match=r"NaN or Inf in the maps of layers \[1\]"):
        logit_lens(model, "Rome", lens=[lens])


class Trap:
    """What a pickle can be."""

    def __init__(self, at: Path) -> None:
        self.at = at

    def __reduce__(self) -> Any:
        return Path.touch, (self.at,)


@pytest.mark.parametrize("name", ["params.pt", "lens.pt"])
def test_a_pickle_of_more_than_tensors_is_named_and_never_run(
    gpt2: Case, tuned: Path, tmp_path: Path, name: str
) -> None:
    if name != "params.pt":
        for path in tuned.iterdir():
            path.unlink()
    torch.save({"J": Trap(tmp_path / "sprung")}, tuned / name)
    model = load_model(gpt2.folder, device="cpu")
    with pytest.raises(RecordsError, match=rf"{name}: .*more than plain tensors.*save its tensors"):
        logit_lens(model, "Rome", lens=[tuned])
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["lens.pkl", "pytorch_model.bin"])
def test_a_folder_that_holds_a_pickle_alone_is_refused_by_name(
    gpt2: Case, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04N.")
    model = load_model(gpt2.folder, device="cpu")
    with pytest.raises(InputProblems, match=rf"{name}.*never read"):
        logit_lens(model, "Rome", lens=[tmp_path])


# --- Jacobian lenses ----------------------------------------------------------------------------


def jacobian_file(tmp_path: Path) -> Path:
    (tmp_path / "jlens").mkdir(exist_ok=True)
    return tmp_path / "jlens" / "tiny_jacobian_lens.pt"


@pytest.fixture
def jacobians(llama: Case, tmp_path: Path) -> Any:
    """TransformerLens' own lens of the tiny Llama, saved as it saves them."""
    analysis = pytest.importorskip("transformer_lens.tools.analysis")
    model = load_model(llama.folder, device="cpu")
    text = " ".join(SENTENCES[:4])
    lens = analysis.JacobianLens.fit(model.bridge, [text], corpus="one text", show_progress=False)
    lens.save(str(jacobian_file(tmp_path)))
    return lens


def test_a_saved_jacobian_lens_reads_what_transformer_lens_reads(
    llama: Case, jacobians: Any, tmp_path: Path
) -> None:
    model, ids = load_model(llama.folder, device="cpu"), llama.token_ids[2]
    frame = logit_lens(model, [ids], lens=[tmp_path / "jlens"], positions="last").to_pandas()
    assert list(frame.layer) == list(range(1, model.n_layers + 1))  # none of the embedding
    lens = type(jacobians).load(str(jacobian_file(tmp_path)))  # half precision on disk
    readout = lens.readout(model.bridge, torch.tensor([ids]), positions=[-1], top_k=5)
    for row in frame.itertuples():
        assert list(row.top_ids) == readout.lens_topk_indices[row.layer - 1][0].tolist()


@pytest.mark.slow
def test_a_run_with_it_says_what_was_not_checked(
    llama: Case, jacobians: Any, tmp_path: Path
) -> None:
    prompts = write_csv(tmp_path / "small.csv", facts_rows())
    lenses = ("final", str(tmp_path / "jlens"))
    spec = RunSpec((str(llama.folder),), prompts=str(prompts), limit=4, lenses=lenses)
    record = open_record(run(spec, tmp_path / "run").folder)
    told = record.manifest["lenses"]["jlens"]
    assert told["published"]["n_prompts"] == 1
    assert told["published"]["corpus"] == "one text"
    assert {"weights", "tokenizer", "head"} <= {*told["unchecked"]}
    assert record.main_lens == "final"  # nobody knows how well the other reads
    milestones = tables(record.folder)["milestones"]
    own = milestones[milestones.lens == "jlens"]
    assert not own.rank1_first_reason.fillna("").str.contains("not measured").any()
    build_report([record.folder])
    report = (record.folder / "report.md").read_text(encoding="utf-8")
    assert "jlens has no held-out figures" in report
    assert all(gate["passed"] for gate in manifest(record.folder)["gate"])


def test_a_checkpoint_of_a_fit_is_a_lens_too(llama: Case, jacobians: Any, tmp_path: Path) -> None:
    model = load_model(llama.folder, device="cpu")
    before = logit_lens(model, "Rome is the", lens=[tmp_path / "jlens"]).to_pandas()
    sums = {block: 3 * matrix for block, matrix in jacobians.jacobians.items()}
    torch.save({"jacobian_sum": sums, "n_done": 3}, jacobian_file(tmp_path))
    after = logit_lens(model, "Rome is the", lens=[tmp_path / "jlens"]).to_pandas()
    assert after.entropy_bits.tolist() == pytest.approx(before.entropy_bits.tolist(), rel=1e-2)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"weights": torch.eye(32)}, "no Jacobian lens"),
        ({"J": {0: torch.eye(32)}, "d_model": 32}, r"1, 1 to 1 there, 2, 1 to 2 needed"),
        ({"J": {0: torch.eye(31)}, "d_model": 32}, "no Jacobian lens"),
        ({"J": {}, "d_model": 32}, "no Jacobian lens"),
    ],
)
def test_what_is_no_whole_jacobian_lens_is_refused(
    llama: Case, tmp_path: Path, payload: dict[str, Any], said: str
) -> None:
    torch.save(payload, jacobian_file(tmp_path))
    model = load_model(llama.folder, device="cpu")
    with pytest.raises(RecordsError, match=said):
        logit_lens(model, "Rome", lens=[tmp_path / "jlens"])


def test_a_target_that_is_not_the_last_layer_is_refused(
    llama: Case, jacobians: Any, tmp_path: Path
) -> None:
    jacobians.metadata["target_layer"] = 1
    jacobians.save(str(jacobian_file(tmp_path)))
    model = load_model(llama.folder, device="cpu")
    with pytest.raises(RecordsError, match="n_layers: 2 there, 3 now"):
        logit_lens(model, "Rome", lens=[tmp_path / "jlens"])


def test_the_verb_takes_a_published_folder(
    lensbench: Program, gpt2: Case, tuned: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lens = tuned.rename(tuned.with_name("by-the-verb"))
    done = lensbench("lens", gpt2.folder, "The capital of Germany is", "--lens", lens)
    assert done.status == 0, done.err
    assert "the head's weights. It cannot be checked" in caplog.text
