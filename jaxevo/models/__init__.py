"""Decoder families, weights, tokenizers, and the scorer."""
