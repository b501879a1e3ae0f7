"""A two-layer attention-only model whose four heads were made by hand.

GPT-2's class with learnt positions, its MLPs zero. The stream has four parts: which token stands
here, at which place, which token stands before, and what is said next.

    block 0, head 0   previous token: puts the token before into the third part
    block 0, head 1   current token: looks at itself, moves nothing
    block 1, head 0   induction: from a token to what followed it before, which it says
    block 1, head 1   first token: a sink, moves nothing
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

    from lensbench.models.model import LensModel

N_TOKENS, N_PLACES = 16, 40
D_MODEL, D_HEAD = 3 * N_TOKENS + N_PLACES, (3 * N_TOKENS + N_PLACES) // 2
PREVIOUS, CURRENT, INDUCTION, FIRST = (0, 0), (0, 1), (1, 0), (1, 1)  # block, head
BOS = 0

TOKEN = slice(0, N_TOKENS)
PLACE = slice(TOKEN.stop, TOKEN.stop + N_PLACES)
BEFORE = slice(PLACE.stop, PLACE.stop + N_TOKENS)
SAID = slice(BEFORE.stop, BEFORE.stop + N_TOKENS)
_SHARP = 6.0  # of queries: the key that is meant gets all but 1e-4 of the weight
_ONE = 1 / 6.0  # a normed vector with two or three ones has about sixes there


def planted_hf() -> GPT2LMHeadModel:
    """The Hugging Face model."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=N_TOKENS,
        n_positions=N_PLACES,
        n_embd=D_MODEL,
        n_layer=2,
        n_head=2,
        n_inner=4,
        tie_word_embeddings=False,
        bos_token_id=BOS,
        eos_token_id=BOS,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "ln_" not in name:
                weight.zero_()
        model.transformer.wte.weight[:, TOKEN] = torch.eye(N_TOKENS)
        model.transformer.wpe.weight[:, PLACE] = torch.eye(N_PLACES)
        model.lm_head.weight[:, SAID] = 3 * torch.eye(N_TOKENS)
        places = torch.eye(N_PLACES)
        _look(model, PREVIOUS, (PLACE, places), (PLACE, places.roll(1, dims=1)))
        _look(model, CURRENT, (PLACE, places), (PLACE, places))
        _look(model, INDUCTION, (TOKEN, torch.eye(N_TOKENS)), (BEFORE, torch.eye(N_TOKENS)))
        _rest(model, INDUCTION, N_TOKENS, 2.5 * _SHARP)  # where nothing stood before
        _rest(model, FIRST, 0, 6 * _SHARP)
        _move(model, PREVIOUS, BEFORE, _ONE)
        _move(model, INDUCTION, SAID, 2 * _ONE)
    return model.eval()


def planted() -> LensModel:
    """The same as lensbench has it."""
    from lensbench.models.bridge import bridged

    return bridged(planted_hf(), words(), "planted", "made by hand")


def save_planted(folder: Path) -> Path:
    """Its checkpoint; prompts are texts of the words b to p."""
    planted_hf().save_pretrained(folder, safe_serialization=True)
    words().save_pretrained(folder)
    return folder


def words() -> PreTrainedTokenizerFast:
    """A token for each letter from b to p, standing alone, behind BOS."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = {chr(ord("a") + number): number for number in range(1, N_TOKENS)}
    core = Tokenizer(models.WordLevel({"<s>": BOS, **letters}, unk_token="<s>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="<s>")


def repeated(n: int, seed: int) -> list[int]:
    """BOS, `n` different random tokens, and the same once more."""
    import numpy as np

    tokens = (1 + np.random.default_rng(seed).permutation(N_TOKENS - 1)[:n]).tolist()
    return [BOS, *tokens, *tokens]


def _look(
    model: GPT2LMHeadModel,
    head: tuple[int, int],
    query: tuple[slice, torch.Tensor],
    key: tuple[slice, torch.Tensor],
) -> None:
    """A query's and a key's part of the stream, each through a matrix [part, d]."""
    weight = model.transformer.h[head[0]].attn.c_attn.weight
    for offset, sharp, (part, matrix) in ((0, _SHARP, query), (D_MODEL, 1.0, key)):
        start = offset + head[1] * D_HEAD
        weight[part, start : start + matrix.shape[1]] = sharp * matrix


def _rest(model: GPT2LMHeadModel, head: tuple[int, int], dimension: int, size: float) -> None:
    """Every query looks at the first place, if at nothing that it wants more."""
    attention, place = model.transformer.h[head[0]].attn.c_attn, head[1] * D_HEAD + dimension
    attention.bias[place] = size
    attention.weight[PLACE.start, D_MODEL + place] = 1.0


def _move(model: GPT2LMHeadModel, head: tuple[int, int], to: slice, size: float) -> None:
    """The token that is looked at, into a part of the stream; of BOS, nothing."""
    import torch

    attention, eye = model.transformer.h[head[0]].attn, torch.eye(N_TOKENS)
    eye[BOS, BOS] = 0
    start = head[1] * D_HEAD
    attention.c_attn.weight[TOKEN, 2 * D_MODEL + start : 2 * D_MODEL + start + N_TOKENS] = eye
    attention.c_proj.weight[start : start + N_TOKENS, to] = size * eye
