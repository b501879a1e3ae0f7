"""What reading the senses of words takes, layer by layer, before and after training."""

from __future__ import annotations

from lensbench.costs.cost import Cost, total
from lensbench.costs.planned import Jobs
from lensbench.costs.shape import Shape
from lensbench.embeddings.geometry import CENTRED, PLAIN
from lensbench.embeddings.senses.measured import Reading
from lensbench.embeddings.senses.sentences import splits
from lensbench.prompts.batch import plan_batches
from lensbench.quantized.peaks import Batch
from lensbench.records.schema.text.embeddings import CONES, READ, SENSES

_UNTIMED = "telling the senses of each word apart takes longer than the passes"


def senses(context: Reading, shape: Shape) -> Jobs[str]:
    """Every sentence once as the model is, once with weights drawn anew."""
    ids = [item.token_ids for item in context.items]
    batches = plan_batches(list(map(len, ids)), context.batch_tokens, context.model.rope_switch)
    n_layers = context.model.n_layers + 1
    parted = splits(list(context.sentences), {item.number for item in context.items})
    corrections = (PLAIN, CENTRED)
    rows = {SENSES.name: len(corrections) * len(parted) * n_layers, CONES.name: n_layers}
    passes = total(shape.texts([ids[row] for row in own], 0) for own in batches)
    held = max(
        shape.held("lens", Batch(len(own), max(len(ids[row]) for row in own))) for own in batches
    )
    cost = passes + Cost(working_bytes=held, rows=rows)
    return Jobs([list(READ)], lambda _: cost, n_prompts=len(ids), n_models=2, untimed=_UNTIMED)
