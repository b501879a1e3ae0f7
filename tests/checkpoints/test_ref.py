"""NAME[@BITS[:THRESHOLD]][+ADAPTER]: every way to say it makes one object, or all is refused."""

from __future__ import annotations

import string
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.checkpoints import ref as refs
from lensbench.checkpoints.ref import ModelRef, model_refs
from lensbench.errors import InputProblems, ModelError
from lensbench.files import sha256_of
from lensbench.records.store import folder_name

ALIAS = "smollm2-135m"


def adapter_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return adapter_in(tmp_path / "my adapter@8+x")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- what a name says


def test_a_name_alone_is_a_plain_model() -> None:
    ref = ModelRef.of(ALIAS)
    assert ref == ModelRef(ALIAS)
    assert ref.plain
    assert str(ref) == ALIAS


@pytest.mark.parametrize("bits", [4, 8, 16, 32])
def test_bits_after_the_sign(bits: int) -> None:
    ref = ModelRef.of(f"{ALIAS}@{bits}")
    assert (ref.name, ref.bits, ref.adapter) == (ALIAS, bits, None)
    assert not ref.plain
    assert str(ref) == f"{ALIAS}@{bits}"
    assert folder_name(str(ref)) == f"{ALIAS}-{bits}"


@pytest.mark.parametrize(("text", "threshold"), [("8:6", 6.0), ("8:0.5", 0.5), ("8:1e2", 100.0)])
def test_a_threshold_after_the_bits(text: str, threshold: float) -> None:
    assert ModelRef.of(f"{ALIAS}@{text}").int8_threshold == threshold


def test_an_adapter_is_shown_by_its_folder_s_name_only(adapter: Path) -> None:
    alone, both = ModelRef.of(f"{ALIAS}+{adapter}"), ModelRef.of(f"{ALIAS}@8:6+{adapter}")
    assert (alone.bits, alone.adapter) == (None, adapter)
    assert (both.bits, both.int8_threshold, both.adapter) == (8, 6.0, adapter)
    assert str(alone) == f"{ALIAS}+{adapter.name}"
    assert str(both) == f"{ALIAS}@8:6+{adapter.name}"
    assert str(adapter.parent) not in str(both)


def test_the_adapter_s_name_does_not_depend_on_how_its_path_is_written(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(adapter)
    assert str(ModelRef.of(f"{ALIAS}+.")) == f"{ALIAS}+{adapter.name}"


def test_every_name_of_a_known_model_is_its_alias() -> None:
    same = ("tinyllama", "TinyLlama", "TinyLlama/TinyLlama-1.1B-Chat-v1.0")
    assert {ModelRef.of(f"{name}@4") for name in same} == {ModelRef("tinyllama", 4)}


def test_hub_names_may_have_bits_too() -> None:
    assert ModelRef.of("org/model@4") == ModelRef("org/model", 4)


# --- folders with signs in their names


@pytest.mark.parametrize("name", ["a@8", "c++", "m@4+x", "me@home", "my+model@v2"])
def test_a_folder_that_exists_is_a_name_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    assert ModelRef.of(str(folder)) == ModelRef(str(folder))
    assert ModelRef.of(folder) == ModelRef(str(folder))


@pytest.mark.parametrize("name", ["a@8", "c++", "me@home", "my+model@v2", "a+b"])
def test_such_a_folder_takes_bits_and_adapters(name: str, here: Path) -> None:
    (here / name).mkdir()
    adapter_in(here / "adapter")
    adapter_in(here / "other+one@4")
    for adapter in ("adapter", "other+one@4"):
        whole = ModelRef.of(f"./{name}@4+{adapter}")
        assert whole == ModelRef(f"./{name}", 4, adapter=Path(adapter))
        assert ModelRef.of(f"./{name}+{adapter}") == replace(whole, bits=None)
    assert ModelRef.of(f"./{name}@8:6") == ModelRef(f"./{name}", 8, 6.0)


def test_of_two_readings_the_longer_name_counts(here: Path) -> None:
    (here / "a").mkdir()
    adapter_in(here / "b+c")
    adapter_in(here / "c")
    assert ModelRef.of("./a+b+c") == ModelRef("./a", adapter=Path("b+c"))
    (here / "a+b").mkdir()
    assert ModelRef.of("./a+b+c") == ModelRef("./a+b", adapter=Path("c"))


def test_a_folder_in_the_way_does_not_change_what_an_alias_means(here: Path) -> None:
    (here / f"{ALIAS}@8").mkdir()
    assert ModelRef.of(f"{ALIAS}@8") == ModelRef(ALIAS, 8, 0.0)
    assert ModelRef.of(f"./{ALIAS}@8") == ModelRef(f"./{ALIAS}@8")


# --- what is said besides a name, and the defaults


def test_arguments_and_name_make_the_same_object(adapter: Path) -> None:
    named = ModelRef.of(f"{ALIAS}@8:2+{adapter}")
    assert ModelRef.of(ALIAS, bits=8, int8_threshold=2, adapter=adapter) == named
    assert ModelRef.of(f"{ALIAS}@8", int8_threshold=2.0, adapter=str(adapter)) == named
    assert ModelRef.of(f"{ALIAS}@8:2+{adapter}", bits=8, adapter=adapter) == named
    assert ModelRef.of(named) == named == ModelRef.of(named, bits=8)


def test_the_threshold_that_is_not_said_is_that_of_the_use(adapter: Path) -> None:
    lens, second = (ModelRef.of(f"{ALIAS}@8", use=use) for use in ("lens", "generation"))
    assert (lens.int8_threshold, second.int8_threshold) == (0.0, 6.0)
    for bits in (4, 16, 32):
        assert ModelRef.of(f"{ALIAS}@{bits}", use="generation").int8_threshold is None
    assert ModelRef.of(f"{ALIAS}+{adapter}").int8_threshold is None


def test_a_name_without_bits_is_floating_point_for_the_lens_and_8_bits_on_the_second_path() -> None:
    assert ModelRef.of(ALIAS).bits is None
    assert ModelRef.of(ALIAS, use="generation") == ModelRef.of(f"{ALIAS}@8:6", use="generation")


def test_one_model_is_one_name_wherever_it_is_used(adapter: Path) -> None:
    lens = ModelRef.of(f"{ALIAS}@8")
    moved = ModelRef.of(lens, use="generation")
    assert moved.int8_threshold == lens.int8_threshold == 0.0
    assert (str(lens), str(moved)) == (f"{ALIAS}@8", f"{ALIAS}@8:0")
    assert str(ModelRef.of(f"{ALIAS}@8:0")) == f"{ALIAS}@8"


def test_other_bits_of_the_same_model() -> None:
    ref = ModelRef.of(f"{ALIAS}@8:2", use="generation")
    assert ref.at(8) == ref
    assert ref.at(32) == ModelRef(ALIAS, 32, use="generation")
    assert ref.at(32).at(8).int8_threshold == 6.0


def test_it_says_in_words_how_the_weights_are_held(adapter: Path) -> None:
    assert ModelRef.of(ALIAS).precision == ""
    assert ModelRef.of(f"{ALIAS}@4").precision == "4 bits"
    text = ModelRef.of(f"{ALIAS}@8+{adapter}").precision
    assert text == f"8 bits (LLM.int8, outlier threshold 0), adapter {adapter.name}"


# --- what is wrong


def test_everything_that_is_wrong_comes_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputProblems) as caught:
        ModelRef.of(f"smolm@7:x+{tmp_path / 'nothing'}")
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert "No model is called 'smolm'. Did you mean smollm2-135m" in text
    assert "'7' after the @ is no number of bits. Give one of 4, 8, 16, 32" in text
    assert "'x' is no outlier threshold" in text
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
        ("@8:", "'' is no outlier threshold"),
        ("@8:nan", "'nan' is no outlier threshold"),
        ("@8:inf", "'inf' is no outlier threshold"),
        ("@8:-1", "'-1' is no outlier threshold"),
        ("@4:6", "an outlier threshold is for 8 bits"),
    ],
)
def test_what_is_no_model_is_refused_with_its_reason(tail: str, what: str) -> None:
    with pytest.raises(InputProblems) as caught:
        ModelRef.of(ALIAS + tail)
    (problem,) = caught.value.problems
    assert what in problem.what
    assert problem.remedy


@pytest.mark.parametrize(
    ("text", "given", "what"),
    [
        ("@8", {"bits": 4}, "bits is said twice: 8 in the name, and 4"),
        ("@8:6", {"int8_threshold": 0}, "int8 threshold is said twice: 6.0 in the name, and 0.0"),
        ("", {"bits": 5}, "5 is no number of bits"),
        ("", {"bits": 4, "int8_threshold": 6}, "an outlier threshold is for 8 bits"),
        ("@32", {"int8_threshold": 6}, "an outlier threshold is for 8 bits"),
        ("", {"adapter": "nowhere"}, "there is no folder nowhere"),
    ],
)
def test_what_contradicts_itself_is_refused(text: str, given: dict[str, Any], what: str) -> None:
    with pytest.raises(InputProblems, match=what):
        ModelRef.of(ALIAS + text, **given)


def test_two_adapters_are_a_contradiction(adapter: Path, tmp_path: Path) -> None:
    other = adapter_in(tmp_path / "other")
    with pytest.raises(InputProblems, match="adapter is said twice"):
        ModelRef.of(f"{ALIAS}+{adapter}", adapter=other)


@pytest.mark.parametrize("model", [8, None, [ALIAS], {"name": ALIAS}])
def test_another_type_is_one_clear_sentence(model: Any) -> None:
    with pytest.raises(InputProblems, match=r"is no model's name \((int|NoneType|list|dict)\)"):
        ModelRef.of(model)


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputProblems, match=r"holds no adapter \(no adapter_config.json\)"):
        ModelRef.of(f"{ALIAS}+{tmp_path}")


@pytest.mark.parametrize("text", ["@8", "+x", "", "nothing-like-it"])
def test_no_name_is_no_model(text: str) -> None:
    with pytest.raises((InputProblems, ModelError), match="No model is called"):
        ModelRef.of(text)


def test_one_model_said_in_two_ways_is_a_problem() -> None:
    assert [str(ref) for ref in model_refs([f"{ALIAS}@8", f"{ALIAS}@8:6"])] == [
        f"{ALIAS}@8",
        f"{ALIAS}@8:6",
    ]
    with pytest.raises(InputProblems) as caught:
        model_refs([f"{ALIAS}@8", f"{ALIAS}@8:0", f"{ALIAS}@8:6", "nowhere"])
    named = [problem.where for problem in caught.value.problems]
    assert named == ["model nowhere", f"model {ALIAS}@8"]


# --- facts


def test_facts_are_the_hashes_and_all_that_decides_the_weights(tmp_path: Path) -> None:
    folder, adapter = tmp_path / "model", adapter_in(tmp_path / "adapter")
    folder.mkdir()
    (folder / "tiny.gguf").write_bytes(b"weights")
    plain = ModelRef.of(folder).facts()
    told = {"weights_sha256", "tokenizer_sha256", "added_tokens_sha256"}
    told |= {"config_sha256", "chat_template_sha256"}
    assert set(plain) == told
    assert plain["config_sha256"] is None  # a GGUF file holds its own
    with pytest.raises(ModelError, match=r"holds no adapter_model\.safetensors"):
        ModelRef.of(folder, adapter=adapter).facts()
    (adapter / "adapter_model.safetensors").write_bytes(b"update")
    whole = ModelRef.of(folder, bits=8, adapter=adapter).facts()
    assert whole == plain | {
        "bits": 8,
        "int8_threshold": 0.0,
        "adapter": "adapter",
        "adapter_sha256": sha256_of(adapter / "adapter_model.safetensors"),
        "adapter_config_sha256": sha256_of(adapter / "adapter_config.json"),
    }


# --- what is written is read back

NAMES = st.text(string.ascii_lowercase + "@+:8", min_size=1, max_size=8)
THRESHOLDS = st.floats(0, 1e300)
PRECISIONS = st.one_of(
    st.tuples(st.sampled_from([None, 4, 16, 32]), st.none()),
    st.tuples(st.just(8), st.one_of(st.sampled_from([0.0, 6.0]), THRESHOLDS)),
)


@contextmanager
def only(names: set[str]) -> Iterator[None]:
    """Exactly these names are models and, with adapters in them, folders."""

    def locate(name: str) -> Any:
        if name not in names:
            raise ModelError(f"No model is called {name!r}.")
        return refs.Located(name, Path(name))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refs, "locate", locate)
        patch.setattr(refs, "_is_folder", lambda text: text in names)
        patch.setattr(Path, "is_file", lambda _: True)
        yield


@given(st.sampled_from([ALIAS, "tinyllama", "org/model"]), PRECISIONS)
def test_a_model_is_read_back_from_what_is_printed(
    name: str, precision: tuple[Any, float | None]
) -> None:
    ref = ModelRef(name, *precision)
    assert ModelRef.of(str(ref)) == ref


@given(NAMES, NAMES, PRECISIONS, st.booleans(), st.sampled_from(["lens", "generation"]))
def test_so_is_one_whose_folders_hold_signs(
    name: str, adapter: str, precision: tuple[Any, float | None], adapted: bool, use: Any
) -> None:
    """Of all ways to read it, the one that was written is found: no longer name is a model's."""
    if use == "generation" and precision[0] is None:
        precision = (32, None)
    ref = ModelRef(name, *precision, Path(adapter) if adapted else None, use)
    with only({name, adapter} if adapted else {name}):
        found = ModelRef.of(str(ref), use=use)
    assert found == ref or len(found.name) > len(name)
