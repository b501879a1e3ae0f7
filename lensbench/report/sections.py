"""The kinds of record and who reports them. A new section is a folder of its own and one line."""

from __future__ import annotations

from lensbench.report.attention.encoders.section import encoder_attention
from lensbench.report.attention.section import attention
from lensbench.report.classification.section import classification
from lensbench.report.correlation.section import correlation
from lensbench.report.diff.section import diff
from lensbench.report.diff.side_by_side import diffs
from lensbench.report.embeddings.section import embeddings
from lensbench.report.evaluation.section import evaluation
from lensbench.report.fit.section import fit
from lensbench.report.inference.conditions import conditions
from lensbench.report.inference.section import inference
from lensbench.report.inference.trace import trace
from lensbench.report.lens.section import across_models, lens
from lensbench.report.lineage.section import lineage
from lensbench.report.placement.section import placement
from lensbench.report.pretraining.section import pretraining
from lensbench.report.sampling.section import sampling
from lensbench.report.sampling.together import models
from lensbench.report.section import Maker, Together
from lensbench.report.senses.section import senses
from lensbench.report.tokens.section import tokens
from lensbench.report.training.section import training
from lensbench.report.transfer.section import transfer

SECTIONS: dict[str, Maker] = {
    "lens": lens,
    "lens_fit": fit,
    "lens_transfer": transfer,
    "attention": attention,
    "encoder_attention": encoder_attention,
    "training": training,
    "pretraining": pretraining,
    "lineage": lineage,
    "evaluation": evaluation,
    "inference": inference,
    "trace": trace,
    "correlation": correlation,
    "diff": diff,
    "placement": placement,
    "tokens": tokens,
    "embeddings": embeddings,
    "senses": senses,
    "sampling": sampling,
    "classification": classification,
}  # in the order of an index
TOGETHER: dict[tuple[str, ...], Together] = {
    ("lens",): across_models,
    ("inference", "trace"): conditions,
    ("diff",): diffs,
    ("sampling",): models,
}  # over all records of these kinds
ONE_PAGE = ("lens",)  # kinds whose page is one over all records
