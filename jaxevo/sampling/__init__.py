"""Sampling: prefill and decode."""
