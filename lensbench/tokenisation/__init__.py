"""Tokenisation: what tokenizers make of texts, and what that costs in other languages."""
