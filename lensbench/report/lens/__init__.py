"""The report of lens records: one model's, and several models' side by side."""
