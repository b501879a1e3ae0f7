"""A small set of facts: every base prompt with a paraphrase and a control."""

from __future__ import annotations

FACTS = {
    "capital": ("The capital of {} is", "city", {"Germany": "Berlin", "France": "Paris"}),
    "river": ("The river that flows through {} is the", "", {"Germany": "Rhine", "Italy": "Po"}),
    "opposite": ("The opposite of {} is", "word", {"hot": "cold", "big": "small", "up": "down"}),
    "symbol": ("The chemical symbol of {} is", "letters", {"gold": "Au", "iron": "Fe"}),
}
BASE_COLUMNS = {"id", "relation", "prompt", "answer", "category"}
N_BASE = 9
N_ROWS = 3 * N_BASE


def facts_rows() -> list[dict[str, str]]:
    """Every base row with a paraphrase and a control."""
    rows = []
    for relation, (template, category, pairs) in FACTS.items():
        subjects = list(pairs)
        for i, (subject, answer) in enumerate(pairs.items()):
            item = f"{relation}-{subject}"
            common = {"relation": relation, "answer": answer, "category": category}
            prompt = template.format(subject)
            other = template.format(subjects[i - 1])
            rows += [
                common | {"id": item, "prompt": prompt},
                common | {"id": f"{item}-p", "prompt": f"Well: {prompt}", "paraphrase_of": item},
                common | {"id": f"{item}-c", "prompt": other, "control_of": item},
            ]
    return rows
