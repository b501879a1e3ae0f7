"""The second path: 8-bit inference, retrieval, tracing and adapters over plain Hugging Face models.

It shares no code with the TransformerLens path; the two meet in records.
"""
