"""Correlation of activations: conditions against a reference, layer by layer, into a record."""
