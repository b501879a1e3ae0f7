"""Encoders: what heads that look both ways attend to, block by block."""
