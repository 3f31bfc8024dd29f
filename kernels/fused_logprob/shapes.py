"""Heads of real models: what the fused heads are measured, modelled and compiled at."""

from __future__ import annotations

from typing import NamedTuple


class Head(NamedTuple):
    """Width D and vocabulary V of an unembedding."""

    width: int
    vocabulary: int


HEADS = {
    "smollm2-135m": Head(576, 49152),
    "qwen3-0.6b": Head(1024, 151936),
    "qwen3-1.7b": Head(2048, 151936),
    "gemma-2-2b": Head(2304, 256000),
    "llama-3.1-8b": Head(4096, 128256),
    "qwen3-8b": Head(4096, 151936),
}
