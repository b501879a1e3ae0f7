"""The report of what became of a small model, from random weights to its last step."""
