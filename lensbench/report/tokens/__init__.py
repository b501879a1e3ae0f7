"""The report of a comparison of tokenizers."""
