"""Activations of two runs or more compared: numbers from records, no model and no torch."""
