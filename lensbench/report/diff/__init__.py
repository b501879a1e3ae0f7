"""The report of a diff."""
