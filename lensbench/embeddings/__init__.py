"""Embeddings: vectors of sentences and words, what their angles say, and of a word in context."""
