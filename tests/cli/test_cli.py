"""The command line on tiny checkpoints: what it prints, writes and exits with."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lensbench.cli.program import FOLDERS, PANELS
from lensbench.escape import visible
from lensbench.prompts.encode import TokenText
from lensbench.version import __version__
from tests.harness.program import Done, Program, words
from tests.harness.tiny import SENTENCES, Case

PROMPT = "The capital of Germany is"
VERBS = [
    "models",
    "pull",
    "check",
    "lens",
    "fit",
    "cache",
    "plan",
    "run",
    "report",
    "infer",
    "chat",
    "train",
]
VERBS += [
    "tokens",
    "embed",
    "classify",
    "sample",
    "walk",
    "attention",
    "correlate",
    "diff",
    "doctor",
    "eval",
    "import",
]
VERBS += ["pico train", "pico analyse"]
VERBS += ["rag build", "rag add", "rag query", "rag info", "rag check"]
VERBS += ["data merge", "data to-jsonl", "data check", "data split", "data docstrings"]
VERBS += ["data shipped", "adapters show", "adapters diff", "adapters merge"]
NASTY = "\x1b[31mred\x07 [bold]x[/bold] [/] \u202e</script><b> is"


# --- help and versions --------------------------------------------------------------------------


def test_the_version_is_shown(lensbench: Program) -> None:
    assert lensbench("--version") == Done(0, f"lensbench {__version__}\n", "")


def test_every_verb_is_tested_here() -> None:
    verbs = [verb for _, panel in PANELS.values() for verb in panel]
    names = [
        f"{verb.rstrip('_')} {part}".strip().replace("_", "-")
        for verb in verbs
        for part in FOLDERS.get(verb, ("",))
    ]
    assert sorted(names) == sorted(VERBS)


def test_the_help_names_every_verb_and_the_exit_statuses(lensbench: Program) -> None:
    done = lensbench("--help")
    assert [verb for verb in VERBS if verb.split()[0] not in done.out] == []
    assert "Exit status: 0 ok" in words(done.out)


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("lens",),
        ("lens", "smollm2-135m"),
        ("lens", "a", "b", "--lens", "tuned"),
        ("lens", "a", "b", "--top-k", "0"),
        ("run", "x", "--all", "--limit", "3"),
        ("check", "a", "--dtype", "float8"),
    ],
)
def test_bad_usage_exits_with_2_and_says_what_is_wrong(
    lensbench: Program, arguments: tuple[str, ...]
) -> None:
    done = lensbench(*arguments)
    assert done.status == 2
    assert done.out == ""
    assert "error: " in done.err


def test_lens_without_a_prompt_says_what_is_missing(lensbench: Program) -> None:
    assert "give a model and a prompt" in words(lensbench("lens", "smollm2-135m").err)


@pytest.mark.parametrize("verb", ["lens", "check", "pull"])
def test_an_unknown_alias_exits_with_2_and_names_the_nearest(lensbench: Program, verb: str) -> None:
    done = lensbench(verb, "smolm2-135m", *([PROMPT] if verb == "lens" else []))
    assert done.status == 2
    assert "No model is called 'smolm2-135m'. Did you mean smollm2-135m" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nowhere"), "analysis.toml"),
        (("report", "nowhere"), "nowhere: no such folder"),
        (("lens", "./nowhere", PROMPT), "There is no folder ./nowhere"),
        (("lens", "smollm2-135m", "--prompts", "no.csv"), "no such file"),
    ],
)
def test_bad_input_exits_with_2_and_one_message(
    lensbench: Program, arguments: tuple[str, ...], message: str
) -> None:
    done = lensbench(*arguments)
    assert (done.status, done.out) == (2, "")
    assert message in words(done.err)
    assert "Traceback" not in done.err


# --- one prompt ---------------------------------------------------------------------------------


def own_next_token(case: Case, prompt: str) -> str:
    """What Hugging Face's model says next, as text."""
    ids = torch.tensor([case.model.tokenizer(prompt).input_ids])
    with torch.inference_mode():
        token = int(case.hf(ids).logits[0, -1].argmax())
    return TokenText(case.model.tokenizer)(token)


def layer_rows(table: str) -> list[list[str]]:
    """The cells of each layer's line."""
    return [line.split() for line in table.splitlines() if re.match(r"\s*\d+ +\S", line)]


@pytest.mark.parametrize("prompt", [PROMPT, *SENTENCES[1:3]])
def test_the_last_row_of_the_table_is_what_hugging_face_says(
    lensbench: Program, llama: Case, prompt: str
) -> None:
    done = lensbench("lens", llama.folder, prompt)
    assert done.status == 0
    rows = layer_rows(done.out)
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    assert rows[-1][1] == visible(own_next_token(llama, prompt))
    assert rows[-1][-1] == "1"  # the rank of the model's own answer
    assert prompt in words(done.out)


def test_mid_adds_the_residual_after_attention(lensbench: Program, llama: Case) -> None:
    rows = layer_rows(lensbench("lens", llama.folder, PROMPT, "--mid").out)
    assert [row[0] for row in rows] == ["0", "1", "1", "2", "2", "3", "3"]
    assert [row[1] == "mid" for row in rows] == [False, True, False, True, False, True, False]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "answer: the model's own next token, "),
        (("--answer", " Berlin"), "answer: 1 of 1 answer(s) scored with the white space that is"),
    ],
    ids=["none", "with a space"],
)
def test_the_line_on_the_answer_is_about_what_was_asked(
    lensbench: Program, llama: Case, given: tuple[str, ...], said: str
) -> None:
    lines = lensbench("lens", llama.folder, PROMPT, *given).out.splitlines()
    assert next(line[: len(said)] for line in lines if line.startswith("answer:")) == said


def test_the_answer_is_followed(lensbench: Program, llama: Case) -> None:
    done = lensbench("lens", llama.folder, PROMPT, "--answer", "Berlin", "--json")
    answers = {row["answer_id"] for row in json.loads(done.out)}
    assert answers == {llama.model.tokenizer(f"{PROMPT} Berlin").input_ids[len_of(llama)]}


def len_of(case: Case, prompt: str = PROMPT) -> int:
    return len(case.model.tokenizer(prompt).input_ids)


def strict(text: str) -> list[dict[str, object]]:
    """JSON as the standard has it: neither NaN nor Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_has_one_object_a_layer_with_null_for_what_is_missing(
    lensbench: Program, llama: Case
) -> None:
    done = lensbench("lens", llama.folder, PROMPT, "--json", "--top-k", 3)
    rows = strict(done.out)
    assert [row["layer"] for row in rows] == [0, 1, 2, 3]
    assert {row["next_surprisal_bits"] for row in rows} == {None}
    assert {row["category_rank"] for row in rows} == {None}
    assert all(len(row["top_tokens"]) == 3 for row in rows)  # type: ignore[arg-type]
    assert rows[-1]["top_tokens"][0] == own_next_token(llama, PROMPT)  # type: ignore[index]
    assert rows[-1]["answer_rank"] == 1


def test_json_of_two_models_is_one_document(lensbench: Program, llama: Case, gpt2: Case) -> None:
    rows = strict(lensbench("lens", llama.folder, gpt2.folder, PROMPT, "--json").out)
    assert [row["model"] for row in rows] == [str(llama.folder)] * 4 + [str(gpt2.folder)] * 4


@pytest.mark.parametrize("position", [0, 2, -1, -2])
def test_another_position_can_be_asked_for(lensbench: Program, llama: Case, position: int) -> None:
    done = lensbench("lens", llama.folder, PROMPT, "--json", "--position", position)
    expected = position % len_of(llama)
    assert {row["position"] for row in strict(done.out)} == {expected}


@pytest.mark.parametrize("beyond", [0, -1])
def test_a_position_out_of_range_exits_with_2(lensbench: Program, llama: Case, beyond: int) -> None:
    n = len_of(llama)
    position = n if beyond == 0 else -n - 1
    done = lensbench("lens", llama.folder, PROMPT, "--position", position)
    assert done.status == 2
    assert f"the prompt has {n} positions, no {position}" in done.err
    assert f"Give -{n} to {n - 1}" in done.err


@pytest.mark.parametrize("prompt", ["", "   ", "a\0b", "word " * 100, "half \udcff"])
def test_a_prompt_that_cannot_be_read_exits_with_2(
    lensbench: Program, llama: Case, prompt: str
) -> None:
    done = lensbench("lens", llama.folder, prompt)
    assert (done.status, done.out) == (2, "")
    assert "1 problem with the input" in done.err


def test_html_is_one_file_that_needs_nothing_else(
    lensbench: Program, llama: Case, tmp_path: Path
) -> None:
    done = lensbench("lens", llama.folder, PROMPT, "--html", tmp_path / "page.html")
    assert done.status == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Plotly.react" in page
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", page)


def test_a_prompt_is_read_by_every_lens_that_is_named(
    lensbench: Program, llama: Case, tmp_path: Path
) -> None:
    named = ("--lens", "final", "--lens", "raw")
    done = lensbench("lens", llama.folder, PROMPT, *named, "--html", tmp_path / "page.html")
    assert [line for line in done.out.splitlines() if line.startswith("lens:")] == [
        "lens: final",
        "lens: raw",
    ]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "no norm and the head" in page and "final norm and the head" in page
    rows = strict(lensbench("lens", llama.folder, PROMPT, *named, "--json").out)
    alone = strict(lensbench("lens", llama.folder, PROMPT, "--lens", "raw", "--json").out)
    assert [row for row in rows if row["lens"] == "raw"] == alone
    assert len(rows) == 2 * len(alone)


def test_html_of_two_models_is_two_files(
    lensbench: Program, llama: Case, gpt2: Case, tmp_path: Path
) -> None:
    lensbench("lens", llama.folder, gpt2.folder, PROMPT, "--html", tmp_path / "page.html")
    assert len(list(tmp_path.glob("page-*.html"))) == 2


# --- hostile text -------------------------------------------------------------------------------


def test_a_nasty_prompt_is_shown_as_text(lensbench: Program, gpt2: Case, tmp_path: Path) -> None:
    done = lensbench("lens", gpt2.folder, NASTY, "--html", tmp_path / "page.html")
    assert done.status == 0
    assert not set("\x1b\x07\u202e") & set(done.out + done.err)
    assert "\\u001b[31mred\\u0007 [bold]x[/bold] [/]" in words(done.out)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "</script><b>" not in page
    assert not set("\x1b\u202e") & set(page)


def test_a_nasty_token_is_shown_as_text_in_json_too(lensbench: Program, gpt2: Case) -> None:
    done = lensbench("lens", gpt2.folder, NASTY, "--json")
    assert len(strict(done.out)) == 4
    assert "\x1b" not in done.out


def test_a_nasty_row_is_named_as_text(lensbench: Program, llama: Case, tmp_path: Path) -> None:
    row = {"relation": "r", "prompt": PROMPT, "answer": "Berlin"}
    bad = row | {"id": NASTY, "prompt": ""}
    lines = [json.dumps(row | {"id": "good"}), json.dumps(bad)]
    (tmp_path / "set.jsonl").write_text("\n".join(lines))
    done = lensbench("lens", llama.folder, "--prompts", tmp_path / "set.jsonl", "--out", "run")
    assert done.status == 1
    assert not set("\x1b\x07\u202e") & set(done.out + done.err)
    assert "[bold]x[/bold] [/]" in words(done.err)


@pytest.mark.parametrize("name", ["m[/]", "[red]m", "\x1b[31m"])
def test_a_nasty_model_name_is_shown_as_text(
    lensbench: Program, llama: Case, tmp_path: Path, name: str
) -> None:
    shutil.copytree(llama.folder, tmp_path / name)
    done = lensbench("lens", f"./{name}", PROMPT)
    assert done.status == 0
    assert "\x1b" not in done.out + done.err
    assert name.replace("\x1b", "\\u001b") in done.out


# --- the gate -----------------------------------------------------------------------------------


def test_check_passes_on_a_sound_model(lensbench: Program, llama: Case) -> None:
    done = lensbench("check", llama.folder)
    assert done.status == 0
    assert "passed" in done.out
    assert "FAILED" not in done.out


def test_check_fails_when_raw_is_taken_for_the_model(lensbench: Program, llama: Case) -> None:
    done = lensbench("check", llama.folder, "--norm", "raw")
    assert done.status == 1
    assert "FAILED" in done.out


# --- prompt sets and reports --------------------------------------------------------------------

ROWS = """id,relation,prompt,answer,category,control_of
germany,capital,The capital of Germany is,Berlin,city,
germany-c,capital,The capital of France is,Berlin,city,germany
france,capital,The capital of France is,Paris,city,
hot,opposite,The opposite of hot is,cold,word,
gold,symbol,The chemical symbol of gold is,Au,,
"""


def test_two_models_over_a_prompt_set_make_a_run_folder_with_reports(
    lensbench: Program, llama: Case, gpt2: Case, tmp_path: Path
) -> None:
    (tmp_path / "small.csv").write_text(ROWS)
    arguments = ("lens", llama.folder, gpt2.folder, "--prompts", "small.csv", "--out", "run")
    done = lensbench(*arguments)
    assert done.status == 0, done.err
    assert len(list(tmp_path.glob("run/*/manifest.json"))) == 2
    assert len(list(tmp_path.glob("run/*/report.md"))) == 2
    for name in ("report.md", "report.html"):
        assert (tmp_path / "run" / name).stat().st_size > 1000
        assert f"run/{name}" in done.out


def test_a_bad_row_exits_with_1_and_the_rest_is_reported(
    lensbench: Program, llama: Case, tmp_path: Path
) -> None:
    (tmp_path / "small.csv").write_text(ROWS + "empty,capital,,Rome,city,\n")
    done = lensbench("lens", llama.folder, "--prompts", "small.csv", "--out", "run")
    assert done.status == 1
    assert "small.csv, row 7, id empty: the prompt is empty" in words(done.err)
    assert len(list(tmp_path.glob("run/*/report.md"))) == 1


def test_the_default_run_folder_has_the_name_of_the_prompt_set(
    lensbench: Program, llama: Case, tmp_path: Path
) -> None:
    (tmp_path / "small.csv").write_text(ROWS)
    arguments = ("--relation", "capital", "--limit", 1)
    assert lensbench("lens", llama.folder, "--prompts", "small.csv", *arguments).status == 0
    (path,) = tmp_path.glob("runs/small/*/manifest.json")
    settings = json.loads(path.read_text())["settings"]
    assert (settings["n_prompts"], settings["relations"]) == (2, ["capital"])


def test_a_model_that_cannot_be_measured_exits_with_1_and_the_other_is_reported(
    lensbench: Program, llama: Case, tmp_path: Path
) -> None:
    (tmp_path / "small.csv").write_text(ROWS)
    shutil.copytree(llama.folder, tmp_path / "broken")
    (tmp_path / "broken" / "tokenizer.json").unlink()
    models = ("./broken", llama.folder)
    done = lensbench("lens", *models, "--prompts", "small.csv", "--limit", 1, "--out", "run")
    assert done.status == 1
    assert "no tokenizer" in done.err
    assert len(list(tmp_path.glob("run/*/report.md"))) == 1


@pytest.mark.parametrize("device", ["potato", "cpu,disk=nowhere"])
def test_what_is_no_device_is_said_before_libraries_are_read(device: str) -> None:
    """Whatever else is wrong, and of every machine: torch is not asked."""
    arguments = ["lens", "smollm2-135m", PROMPT, "--device", device]
    code = (
        "import sys\nfrom lensbench.cli.program import called\n"
        "from lensbench.errors import InputProblems\n"
        f"try: called({arguments!r})\n"
        "except InputProblems as error: print(error)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--device" in done.stdout


def test_a_device_that_is_not_there_is_said_before_a_model_is_looked_for(
    lensbench: Program, tmp_path: Path
) -> None:
    done = lensbench("lens", "smolm2", "--prompts", "facts", "-o", tmp_path, "--device", "cuda:99")
    assert "There is no cuda:99 on this machine" in words(done.err)
    assert "smolm2" not in done.err
    assert [*tmp_path.iterdir()] == []
