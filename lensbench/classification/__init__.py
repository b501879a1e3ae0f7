"""Labelled texts, and how well they are told apart: by training an encoder, or by prompting."""
