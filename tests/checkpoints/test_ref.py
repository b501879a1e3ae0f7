"""NAME[@BITS][+ADAPTER]: what it names, how it is written back, and all that is wrong at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.checkpoints.ref import Variant, parse_variant
from lensbench.errors import InputProblems, ModelError
from lensbench.records.store import folder_name

ALIAS = "smollm2-135m"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "my adapter@8+x"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    return folder


def test_a_name_alone_is_a_plain_model() -> None:
    variant = parse_variant(ALIAS)
    assert variant == Variant(ALIAS)
    assert variant.plain
    assert str(variant) == ALIAS


@pytest.mark.parametrize("bits", [4, 8, 16, 32])
def test_bits_after_the_sign(bits: int) -> None:
    variant = parse_variant(f"{ALIAS}@{bits}")
    assert (variant.name, variant.bits, variant.adapter) == (ALIAS, bits, None)
    assert not variant.plain
    assert str(variant) == f"{ALIAS}@{bits}"
    assert folder_name(str(variant)) == f"{ALIAS}-{bits}"


def test_an_adapter_is_shown_by_its_folder_s_name_only(adapter: Path) -> None:
    alone, both = parse_variant(f"{ALIAS}+{adapter}"), parse_variant(f"{ALIAS}@8+{adapter}")
    assert (alone.bits, alone.adapter) == (None, adapter)
    assert (both.bits, both.adapter) == (8, adapter)
    assert str(alone) == f"{ALIAS}+{adapter.name}"
    assert str(both) == f"{ALIAS}@8+{adapter.name}"
    assert str(adapter.parent) not in str(both)


def test_the_adapter_s_name_does_not_depend_on_how_its_path_is_written(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(adapter)
    assert str(parse_variant(f"{ALIAS}+.")) == f"{ALIAS}+{adapter.name}"


@pytest.mark.parametrize("name", ["a@8", "c++", "m@4+x", "me@home"])
def test_a_folder_that_exists_is_a_name_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    assert parse_variant(str(folder)) == Variant(str(folder))


@pytest.mark.parametrize("name", ["c++", "me@home"])
def test_bits_end_a_name_that_holds_a_sign(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    assert parse_variant(f"{folder}@8") == Variant(str(folder), 8)


def test_hub_names_have_variants_too() -> None:
    assert parse_variant("org/model@4") == Variant("org/model", 4)


def test_everything_that_is_wrong_comes_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputProblems) as caught:
        parse_variant(f"smolm@7+{tmp_path / 'nothing'}")
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    assert "No model is called 'smolm'. Did you mean smollm2-135m" in text
    assert "'7' after the @ is no number of bits. Give one of 4, 8, 16, 32" in text
    assert "there is no folder" in text


@pytest.mark.parametrize(
    ("tail", "what"),
    [
        ("@", "'' after the @"),
        ("@eight", "'eight' after the @"),
        ("@8.0", "'8.0' after the @"),
        ("@08", "'08' after the @"),
        ("@-8", "'-8' after the @"),
        ("@8@4", "No model is called 'smollm2-135m@8'"),
        ("+", "no adapter stands after the +"),
        ("@8+", "no adapter stands after the +"),
        ("+ ", "no adapter stands after the +"),
        ("+nowhere", "there is no folder nowhere"),
    ],
)
def test_what_is_no_variant_is_refused_with_its_reason(tail: str, what: str) -> None:
    with pytest.raises(InputProblems) as caught:
        parse_variant(ALIAS + tail)
    (problem,) = caught.value.problems
    assert what in problem.what
    assert problem.remedy


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputProblems, match=r"holds no adapter \(no adapter_config.json\)"):
        parse_variant(f"{ALIAS}+{tmp_path}")


@pytest.mark.parametrize("text", ["@8", "+x", "", "nothing-like-it"])
def test_no_name_is_no_model(text: str) -> None:
    with pytest.raises((InputProblems, ModelError), match="No model is called"):
        parse_variant(text)


@given(st.sampled_from([ALIAS, "tinyllama", "org/model"]), st.sampled_from([4, 8, 16, 32]))
def test_what_is_written_is_read_back(name: str, bits: int) -> None:
    variant = Variant(name, bits)  # type: ignore[arg-type]
    assert parse_variant(str(variant)) == variant
