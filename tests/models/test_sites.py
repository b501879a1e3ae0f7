"""Sites are data: a name, a hook point, a depth; a model knows which of them it has."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lensbench import InputProblems
from lensbench.models.sites import KINDS, STREAM, VECTORS, Site
from tests.harness.tiny import Case


@pytest.mark.parametrize(
    ("text", "site", "hook"),
    [
        ("embed", Site("embed", 0), "blocks.0.hook_resid_pre"),
        ("blocks.5.resid_post", Site("resid_post", 6), "blocks.5.hook_resid_post"),
        ("blocks.5.resid_mid", Site("resid_mid", 6), "blocks.5.hook_resid_mid"),
        ("blocks.5.attn_out", Site("attn_out", 6), "blocks.5.hook_attn_out"),
        ("blocks.0.mlp_out", Site("mlp_out", 1), "blocks.0.hook_mlp_out"),
        ("blocks.5.head_out.3", Site("head_out", 6, 3), "blocks.5.attn.hook_result"),
        ("blocks.5.pattern", Site("pattern", 6), "blocks.5.attn.hook_pattern"),
        ("blocks.11.pattern.10", Site("pattern", 12, 10), "blocks.11.attn.hook_pattern"),
        ("blocks.2.attn.hook_z", Site("attn.hook_z", 3), "blocks.2.attn.hook_z"),
    ],
)
def test_a_name_is_read_and_written(text: str, site: Site, hook: str) -> None:
    assert Site.parse(text) == site
    assert str(site) == text
    assert site.hook == hook
    assert Site.of(site.name, site.layer) == site  # as a record has it


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("blocks.0.resid_pre", "embed"),
        ("blocks.5.resid_pre", "blocks.4.resid_post"),
        ("blocks.5.hook_resid_pre", "blocks.4.resid_post"),
        ("blocks.5.hook_resid_post", "blocks.5.resid_post"),
        ("blocks.5.attn.hook_pattern", "blocks.5.pattern"),
    ],
)
def test_a_place_has_one_name(text: str, same: str) -> None:
    assert str(Site.parse(text)) == same


@pytest.mark.parametrize("text", ["", "blocks", "blocks.5", "blocks.x.resid_post", "resid_past"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InputProblems, match=r"there is no .*blocks\.5\.KIND"):
        Site.parse(text)


def test_depth_is_half_a_block_further_after_each_half() -> None:
    depths = [Site(kind, 3).depth(4) for kind in KINDS[1:]]
    assert depths == [0.625, 0.625, 0.625, 0.625, 0.75, 0.75]
    assert Site("embed", 0).depth(4) == 0.0
    assert Site("attn.hook_z", 1).depth(4) == 0.125


def test_vectors_of_the_stream_s_width() -> None:
    assert all(Site(kind, 1).is_vector for kind in VECTORS if kind != "head_out")
    assert Site("head_out", 1, 0).is_vector
    assert not Site("head_out", 1).is_vector
    assert not Site("pattern", 1, 0).is_vector
    assert set(STREAM) < set(VECTORS)


# A model's own.


def test_kinds_names_and_sites_in_the_order_of_the_pass(llama: Case) -> None:
    wanted = ("blocks.2.pattern", "resid_post", Site("attn_out", 2), "embed", "resid_post")
    assert [str(site) for site in llama.model.sites(wanted)] == [
        "embed",
        "blocks.0.resid_post",
        "blocks.1.attn_out",
        "blocks.1.resid_post",
        "blocks.2.pattern",
        "blocks.2.resid_post",
    ]


def test_one_stands_for_a_list_of_it(llama: Case) -> None:
    assert llama.model.sites("blocks.1.mlp_out") == [Site("mlp_out", 2)]
    assert llama.model.sites(Site("embed", 0)) == [Site("embed", 0)]


def test_head_outputs_are_those_of_every_head(llama: Case) -> None:
    heads = llama.model.sites("head_out")
    assert heads == [Site("head_out", layer, head) for layer in (1, 2, 3) for head in range(4)]


def test_a_kind_that_blocks_do_not_have_gives_none(tiny_case: Callable[[str], Case]) -> None:
    assert tiny_case("gpt_neox").model.sites("resid_mid") == []


def test_all_that_a_model_does_not_have_is_named_at_once(llama: Case) -> None:
    wanted = ("blocks.3.resid_post", "blocks.0.head_out.4", "resid_past", "resid_post", 5)
    with pytest.raises(InputProblems) as caught:
        llama.model.sites(wanted)  # type: ignore[arg-type]
    problems = [str(problem) for problem in caught.value.problems]
    assert len(problems) == 4
    for problem, words in zip(
        problems,
        (
            "has no blocks.3.resid_post",
            "has no head 4",
            "there is no 'resid_past'",
            "there is no 5",
        ),
        strict=True,
    ):
        assert words in problem
