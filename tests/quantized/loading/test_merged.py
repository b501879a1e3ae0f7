"""A merged model gives the adapter's logits, and says where it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lensbench.checkpoints.hashes import hashes
from lensbench.errors import ModelError
from lensbench.quantized.loading import merged
from lensbench.quantized.loading.merged import PROVENANCE, distance, merge
from tests.harness.adapters import logits, make_adapter
from tests.harness.families import distinct_families
from tests.harness.tiny import PROMPTS, Case


@distinct_families
def test_a_merged_model_gives_the_adapters_logits(family: Case, tmp_path: Path) -> None:
    """Loaded by Hugging Face itself, against PEFT unmerged, on other texts than the probes."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_adapter(family, tmp_path / "a")
    done = merge(str(family.folder), folder, tmp_path / "merged")
    assert done.error <= done.bound < 1e-3 * done.changed
    plain = AutoModelForCausalLM.from_pretrained(done.folder, dtype=torch.float32).eval()
    peft = PeftModel.from_pretrained(family.fresh_hf(), folder).eval()
    assert distance(logits(plain, family), logits(peft, family)) < done.bound
    words = AutoTokenizer.from_pretrained(done.folder)
    assert [words(prompt).input_ids for prompt in PROMPTS] == family.token_ids


def test_the_lens_path_loads_a_merged_model(llama: Case, adapter: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    from lensbench.lens.gate import check_identities, require
    from lensbench.models.load import load_model

    merge(str(llama.folder), adapter, tmp_path / "merged")
    model = load_model(tmp_path / "merged", device="cpu")
    require(check_identities(model, llama.token_ids[:2]))
    peft = PeftModel.from_pretrained(llama.fresh_hf(), adapter).eval()
    ids = torch.tensor([llama.token_ids[0]])
    with torch.no_grad():
        torch.testing.assert_close(
            model.bridge(ids), peft(input_ids=ids).logits, rtol=1e-4, atol=1e-4
        )


def test_where_a_merged_model_comes_from_is_beside_it(
    llama: Case, adapter: Path, tmp_path: Path
) -> None:
    done = merge(str(llama.folder), adapter, tmp_path / "merged")
    found = json.loads((tmp_path / "merged" / PROVENANCE).read_text())
    assert found["base"]["weights_sha256"] == hashes(llama.folder)["weights_sha256"]
    assert found["logits"] == {"error": done.error, "bound": done.bound, "changed": done.changed}
    assert str(tmp_path) not in json.dumps(found)


def test_a_merge_that_changes_the_logits_is_not_kept(
    llama: Case, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "BOUND", 0.0)
    with pytest.raises(ModelError, match=r"differ from the adapter's by .*, so it was not kept"):
        merge(str(llama.folder), adapter, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_written_over(
    llama: Case, adapter: Path, tmp_path: Path
) -> None:
    (tmp_path / "merged").mkdir()
    with pytest.raises(ModelError, match="is there already"):
        merge(str(llama.folder), adapter, tmp_path / "merged")
