"""Evaluation: the same examples under several conditions."""
