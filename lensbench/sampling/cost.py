"""What the jobs of a sampling record take, from a model's shapes."""

from __future__ import annotations

from lensbench.costs.cost import Cost
from lensbench.costs.shape import Shape
from lensbench.costs.written import written
from lensbench.quantized.peaks import Batch
from lensbench.records.schema.text.sampling import ASKED, FIRST, SETS, TEXTS
from lensbench.sampling.measured import PROMPT, Drawing, Item
from lensbench.sampling.shots.asking import LONGEST, given_items


def job_cost(context: Drawing, shape: Shape, item: Item, ends: bool = False) -> Cost:
    """What one job takes; `ends`: where every text ends with its first token, else at its limit."""
    kind, name = item
    if kind == PROMPT:
        return _prompt(context, shape, name, ends)
    (task,) = [task for task in context.tasks if task.name == kind]
    fits, _ = given_items(context.model, task, name, context.shots, context.seed)
    lengths = [len(ids) for _, ids in fits]
    if not lengths:
        return Cost()
    cost = written(shape, len(lengths), max(lengths), 1 if ends else LONGEST)
    held = shape.held("infer", Batch(len(lengths), max(lengths), LONGEST))
    spared = Cost(n_tokens=sum(lengths) - len(lengths) * max(lengths))  # padding
    return cost + spared + Cost(working_bytes=held, rows={ASKED.name: len(lengths)})


def _prompt(context: Drawing, shape: Shape, prompt_id: str, ends: bool) -> Cost:
    """A pass over the prompt; all texts side by side behind it; and of one the pass that tests it.

    What is drawn of logits is no product of matrices.
    """
    n, rows = len(context.prompts[prompt_id].token_ids), {FIRST.name: len(context.settings)}
    if prompt_id not in context.continued:
        return written(shape, 1, n, 1) + Cost(rows=rows)
    n_new = 1 if ends else context.max_new_tokens
    n_texts = sum(1 if own.greedy else context.draws for own in context.written)
    rows |= {TEXTS.name: n_texts, SETS.name: len(context.written)}
    held = shape.held("infer", Batch(n_texts, n, context.max_new_tokens))
    cost = written(shape, n_texts, n, n_new, n_given=1)
    return cost + shape.batch(1, n + n_new, n + n_new) + Cost(working_bytes=held, rows=rows)
