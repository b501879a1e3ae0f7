"""Chat templates that write today's date into every prompt, as those of Llama 3 do."""

from __future__ import annotations

import json
import logging
import re
from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CLOCK = re.compile(r"\bstrftime_now\b")  # what transformers hands a template to ask the time with
_log = logging.getLogger(__name__)


def template_day(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Today, where the chat template may write it, so that tokens are others tomorrow; else None.

    A warning says so.
    """
    template = tokenizer.chat_template
    text = template if isinstance(template, str) else json.dumps(template)
    if not _CLOCK.search(text):
        return None
    today = date.today().isoformat()
    _log.warning(
        "this model's chat template writes the day into prompts (%s): on another day the same "
        "prompt has other tokens, and numbers may differ",
        today,
    )
    return today
