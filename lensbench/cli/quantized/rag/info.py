"""Show what an index holds and which embedding model made it.

Example:

    lensbench rag info faq-index
"""

from __future__ import annotations

from lensbench.cli.console import say, say_json
from lensbench.cli.options import Json
from lensbench.cli.quantized.rag.reading import Where


def info(index: Where, *, json: Json = False) -> None:
    from lensbench.quantized.rag.index import open_index

    with open_index(index) as opened:
        facts, sources = opened.facts(), opened.sources()
    if json:
        say_json({**facts, "sources": sources})
        return
    for name, value in facts.items():
        say(f"{name:<16} {value}")
    for source, count in sources.items():
        say(f"{'source':<16} {source} ({count:,})")
