"""Attention: what each head looks at, a block's pattern at a time."""
