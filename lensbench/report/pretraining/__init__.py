"""The report of one training of a small model."""
