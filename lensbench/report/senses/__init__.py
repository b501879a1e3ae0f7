"""The report of a word's senses in a contextual model."""
