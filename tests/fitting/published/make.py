"""How the files here were made: by tuned-lens 0.2.0 (pip install tuned-lens), for a tiny model.

    python -m tests.fitting.published.make

In an environment of its own: it does not know transformer-lens 4, and looks for it.

A lens of random parameters, saved by that library, and what the library reads with it: the log
probabilities of the five top tokens, at each layer, at each token of a text.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.harness.tiny import TINY, random_model, tokenizer

HERE = Path(__file__).parent
FAMILY, TEXT = "gpt2", "The capital of Germany is"


def main() -> None:
    from tuned_lens.nn.lenses import TunedLens  # type: ignore[import-not-found]

    model = random_model(TINY[FAMILY])
    model.config.name_or_path = "tiny-gpt2"
    lens, generator = TunedLens.from_model(model), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lens.layer_translators.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    lens.save(HERE)
    ids = tokenizer(TINY[FAMILY].tokenizer)(TEXT).input_ids
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[:-1]
        read = [lens(state, i)[0].log_softmax(-1).topk(5) for i, state in enumerate(states)]
    expected = {
        "token_ids": ids,
        "top_ids": [layer.indices.tolist() for layer in read],
        "top_log_probs": [layer.values.tolist() for layer in read],
    }
    (HERE / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main()
