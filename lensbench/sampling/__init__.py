"""Sampling: what temperature and filters make of the next token, and of whole texts."""
