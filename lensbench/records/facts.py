"""Facts of models in manifests, compared; what a record made before does not say is not known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# What records made before do not hold: not known of those, and no difference.
_LATER = ("config_sha256", "chat_template_sha256", "added_tokens_sha256", "modules_sha256")
TOKENIZER = ("tokenizer_sha256", "added_tokens_sha256")  # what decides token ids


def known_of(there: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """The model's facts without those that an older lensbench did not write down of `there`."""
    unknown = {*_LATER} - {*there}
    return {key: value for key, value in model.items() if key not in unknown}


def differing(
    name: str, there: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]
) -> dict[str, tuple[Any, Any]]:
    """What is not alike, by its name; of entries that have entries, each one that is not."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted(keys):
        a, b = there.get(key), now.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differing(f"{name}.{key}", a, b, {*a, *b})
        elif a != b and (key in there or key not in _LATER):
            found[f"{name}.{key}"] = (a, b)
    return found


def same_tokenizer(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool | None:
    """Whether two models' tokens come of the same files; None where a record does not say it all.

    Of other files they may be the same all the same: a tokenizer that was saved again.
    """
    ours, theirs = tokenizer_of(a), tokenizer_of(b)
    both = ours.keys() & theirs.keys()
    if any(ours[key] != theirs[key] for key in both):
        return False
    return True if len(both) == len(TOKENIZER) else None


def tokenizer_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """The hashes of a model's tokenizer: what its record says of them."""
    return {key: model[key] for key in TOKENIZER if key in model}
