"""What every kind of record has: how it was made, and what could not be measured."""

from __future__ import annotations

from lensbench.records.schema.declare import TEXT, Column, Entry, Table

PROBLEMS = Table(
    "problems",
    "one row per item that could not be measured: the run went on without it",
    (
        Column("model", TEXT, "the model's name"),
        Column("prompt_id", TEXT, "the prompt", null="it is no one prompt's problem"),
        Column("where", TEXT, "file, row or setting"),
        Column("what", TEXT, "what is wrong there"),
        Column("remedy", TEXT, "what to do"),
    ),
)

# Of the kinds whose model is asked in a prompt format.
TEMPLATE_DAY = Entry(
    "template_day",
    "the day that the chat template wrote into prompts; of a resumed run the last one",
    absent="the prompts do not depend on the day",
    type="string",
)
TRAINED_STYLE = Entry(
    "trained_style",
    'prompt format that the adapter was trained in, or "unknown"; `settings.style` is the one used',
    absent="no adapter, or made by an older lensbench",
    type="string",
)

MANIFEST_ENTRIES = (
    Entry("schema_version", "version of these tables and entries", type="integer"),
    Entry("kind", "kind of the record", type="string"),
    Entry("status", '"running" until every table is written, then "complete"', type="string"),
    Entry("lensbench_version", "version of lensbench", type="string"),
    Entry(
        "versions", "versions of Python and of the packages that decide the numbers", type="object"
    ),
    Entry(
        "git",
        "commit of lensbench's checkout, a hash of the code that ran, and whether it had changes "
        "(null since that takes git itself; the hash tells)",
        "no checkout",
        type="object",
    ),
    Entry("created", "day on which the run began, UTC", type="string"),
    Entry(
        "machine",
        "processor, cores, memory in bytes and system, for who compares times; threads to a "
        "sum, which decide last digits (null: none of torch)",
        type="object",
    ),
    Entry("model", "facts of the model; with `settings` they decide the numbers", type="object"),
    Entry(
        "settings", "what was asked for: the fields of the study's or verb's spec", type="object"
    ),
    Entry(
        "gate",
        "checks that ran before anything was written: name, error and its bound",
        type="array",
    ),
    Entry("problems", "rows of the table `problems`", type="integer"),
    Entry(
        "files",
        "further files of the record, from its folder, besides residual vectors",
        absent="no other files",
        type="array",
    ),
    Entry("checksums", "sha256 of every table and file, by its path", absent="schema 2 or older"),
    Entry("manifest_sha256", "of all else in the manifest", absent="schema 2 or older"),
    Entry(
        "resumed_batches",
        "batches that an interrupted run had measured before",
        absent="not made in batches",
        type="integer",
    ),
    Entry(
        "widened",
        "of each narrower record that this one came of: its width, and how it was made",
        absent="never widened",
        type="array",
    ),
    Entry(
        "planned",
        "what the record was planned to take before it was begun, by `lensbench run`: tokens, "
        "with padding too (`n_padded`), forward passes, operations (`flops`), rows, and from the "
        "least to the most `disk_bytes` and `wall_s`; `memory_bytes` at the peak. Where a model "
        "ends its texts itself, counts are of texts that go on to their limit, and `least` has "
        "tokens and operations of such as end at once. What there was of an unfinished record "
        "that was widened is in none of these but `disk_bytes`; its `wall_s` and `n_tokens` are in "
        "`before`",
        absent="it was not planned",
        type="object",
    ),
    Entry(
        "took",
        "the same as it was, without `before`: `wall_s` counts all sessions of a run that was "
        "interrupted, but for the last seconds of each that was (of a batch, and 5 more); "
        "`memory_bytes` is the process' peak, and null where what ran in it before reached the "
        "same or more; `n_tokens` is null where batches do not note it",
        absent="it was not planned, or is still running",
        type="object",
    ),
    Entry("wall_s", "seconds of the run, after a resumption those since", type="number"),
    Entry(
        "workers",
        "how many worker processes were given jobs in that time, besides the process that made the "
        "tables. It stands with the times and decides no number: tables are the same bytes whoever "
        "does the jobs, and a record may be gone on with by others",
        absent="that process did all jobs",
        type="integer",
    ),
    Entry(
        "peak_memory_bytes",
        "highest resident memory of the process",
        "still running",
        type="integer",
    ),
)
