"""How a report writes: numbers, Markdown, CSV and JSON, whatever the text."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest

from lensbench.report.build import unique_slugs
from lensbench.report.kit import numbers
from lensbench.report.kit.markdown import line_cell, markdown_table
from lensbench.report.kit.page import embedded_json
from lensbench.report.kit.table import Table, to_csv
from lensbench.stats.estimates import Estimate, clustered_estimate
from tests.harness.lens_records import NASTY


def test_numbers_have_one_format() -> None:
    assert numbers.number(0.8333, "depth") == "83.3 %"
    assert numbers.number(-0.00001, "pp") == "0.0 pp"
    assert numbers.number(0.031, "pp") == "+3.1 pp"
    assert numbers.number(np.int64(12)) == "12"
    assert numbers.number(None) == "n/a (not recorded)"
    assert numbers.estimate(Estimate(0.8333, 0.8, 0.8667, 9, 3), "share") == "83.3 % [80.0, 86.7]"
    assert numbers.estimate(clustered_estimate([]), "share") == "n/a (no prompts)"
    assert numbers.unit_of("kl_bits") == "bits"
    assert numbers.unit_of("kl_bits_change") == "bits"
    assert numbers.unit_of("kl_bits_change_p") == "p"


def test_noise_is_zero_and_small_bits_have_the_decimals_they_need() -> None:
    def bits(*ends: float) -> str:
        return numbers.estimate(Estimate(*ends, 9, 3), "bits")

    assert bits(-1.6e-08, -3e-08, 0.0) == "0.00 [0.00, 0.00]"
    assert bits(0.001514, 0.001188, 0.001866) == "0.0015 [0.0012, 0.0019]"
    assert bits(-0.06776, -0.09577, -0.04346) == "-0.068 [-0.096, -0.043]"
    assert bits(4.246, 4.05, 4.44) == "4.25 [4.05, 4.44]"
    assert numbers.number(-1.6e-08, "bits") == numbers.number(-0.0, "bits") == "0.00"


def test_lines_keep_their_indentation_and_long_texts_say_that_they_are_cut() -> None:
    assert line_cell("if a:\n    b | c") == "if a:<br>&nbsp;&nbsp;&nbsp;&nbsp;b \\| c"
    assert line_cell("x" * 2000).endswith("<br>(500 more characters)")


def test_csv_cells_are_no_formulas() -> None:
    table = Table("t", "T", pd.DataFrame({"token": ["=1+1", "a,b", 'q"'], "n": [1, 2, 3]}))
    assert to_csv(table) == b'token,n\n\'=1+1,1\n"a,b",2\n"q""",3\n'


@pytest.mark.parametrize("text", ["a\rb", "a\r\nb", 'say "\r\n"', ",", "\n", ""])
def test_any_text_comes_back_out_of_a_csv(text: str) -> None:
    frame = pd.DataFrame({"token": [text, "z"], "count": [1, 2]})
    written = to_csv(Table("t", "T", frame)).decode()
    assert list(csv.reader(io.StringIO(written, newline="")))[1:] == [[text, "1"], ["z", "2"]]
    assert written.startswith("token,count\n")
    assert written.endswith("\nz,2\n")


def test_json_inside_a_script_element_cannot_close_it() -> None:
    nasty = {"x": ["</script>", "<!--", "&amp;", *NASTY]}
    text = embedded_json(nasty)
    assert not set(text) & set("<>&")
    assert json.loads(text) == nasty


def test_folder_names_are_safe_and_unique() -> None:
    names = ["org/model", "org-model", "../../etc", "a b|c", "..."]
    assert unique_slugs(names) == ["org-model", "org-model-2", "etc", "a-b-c", "model"]
    own = ["report.md", "Report.html", "tables", "figures"]
    assert unique_slugs(own) == [f"{name}-2" for name in own]


MEAN = "5 prompts: no interval of a mean covers 90 %"
MEDIAN = "5 prompts: no interval of a median covers 90 %"


def _few(value: float, reason: str = MEAN) -> Estimate:
    return Estimate(value, None, None, 5, 5, reason)


def test_a_reason_that_all_cells_share_is_said_once_under_the_table() -> None:
    frame = pd.DataFrame({"layer": [0, 1], "prob": [_few(0.25), _few(0.5)]})
    assert markdown_table(frame).split("\n")[2:] == [
        "| 0 | 0.250 |",
        "| 1 | 0.500 |",
        "",
        f"No intervals: {MEAN}.",
    ]
    assert MEAN in to_csv(Table("t", "T", frame)).decode()  # the numbers keep theirs


def test_reasons_that_some_cells_share_have_a_letter_and_one_of_its_own_stays() -> None:
    whole, none = Estimate(0.5, 0.4, 0.6, 9, 9), Estimate(None, None, None, 0, 0, "no prompts")
    frame = pd.DataFrame(
        {
            "kl_bits": [_few(1.0), whole, _few(2.0)],
            "depth": [_few(0.5, MEDIAN), _few(0.5, MEDIAN), _few(1.0, "1 prompt: no interval")],
            "share": [none, none, whole],
        }
    )
    assert markdown_table(frame).split("\n")[2:] == [
        "| 1.00 (a) | 50.0 % (b) | n/a (no prompts) |",
        "| 0.50 [0.40, 0.60] | 50.0 % (b) | n/a (no prompts) |",
        "| 2.00 (a) | 100.0 % (1 prompt: no interval) | 50.0 % [40.0, 60.0] |",
        "",
        f"(a) {MEAN}. (b) {MEDIAN}.",
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (80_455.5, "80456"),
        (12_534.2, "12534"),
        (9_999.7, "10000"),
        (-1_234_567.5, "-1234568"),
        (2_996.87, "2997"),
        (3.2e11 + 0.5, "3.2e+11"),
        (-1.6e-08, "-1.6e-08"),
    ],
)
def test_a_number_that_is_read_as_one_has_no_exponent(value: float, said: str) -> None:
    assert numbers.number(value) == said
    assert numbers.estimate(Estimate(value, value, value, 9, 3)) == f"{said} [{said}, {said}]"
