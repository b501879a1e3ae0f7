"""Heads compared: with what chance gives, and with each other."""
