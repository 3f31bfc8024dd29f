"""Tokens that speak for an answer get more of a row's advantage than tokens that fill (CEPO)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxevo.losses.credit import Correction, Truncation, broadcast, logp_of
from jaxevo.losses.reduce import masked
from jaxevo.types import Array, Batch, Stream

LARGEST = 20.0  # exponent, in nats


def evidence_weight(
    evidence_NA: Array, advantage_NA: Array, *, mix: Array | float, clip: float
) -> jax.Array:
    """1 + λ (clip(exp(sign(A) Δ), 1 − ε, 1 + ε) − 1): what a token's advantage is multiplied by.

    A token that the right answer makes likelier than the wrong one counts more in a row that is
    preferred, and less in one that is not. The weight lies in [1 − λε, 1 + λε], so that with λε < 1
    no advantage changes its sign; it is exactly 1 where λ, ε, Δ or A is 0.

    Args:
      evidence_NA: Δ, in nats.
      advantage_NA: A, of the row.
      mix: λ in [0, 1], one number or one per row [N].
      clip: ε >= 0.

    Returns:
      [N, A] float32, without gradient.

    References:
      arXiv 2605.19436 (CEPO), and of the same form arXiv 2604.03128 (RLSD).
    """
    mix = jnp.asarray(mix, jnp.float32)
    exponent_NA = jnp.sign(jnp.asarray(advantage_NA)) * jnp.asarray(evidence_NA, jnp.float32)
    ratio_NA = jnp.exp(jnp.clip(exponent_NA, -LARGEST, LARGEST))
    excess_NA = jnp.clip(ratio_NA, 1.0 - clip, 1.0 + clip) - 1.0
    return jax.lax.stop_gradient(1.0 + (mix[:, None] if mix.ndim else mix) * excess_NA)


def contrasted(
    batch: Batch,
    now: Mapping[str, Stream],
    frozen: Mapping[str, Mapping[str, Stream]],
    *,
    right: str = "right",
    wrong: str | None = "wrong",
    number: str = "mix",
    clip: float = 0.2,
    correction: Correction = "none",
    cap: float = 2.0,
    truncation: Truncation = "correct",
) -> dict[str, dict[str, jax.Array]]:
    """`broadcast`'s credit, its advantages times `evidence_weight`.

    Δ = log P⁺(y_t) − log P⁻(y_t), of the tokens under a teacher that was given the right answer and
    one that was given a wrong one. Where there is no wrong answer, log P⁻ is the old policy's
    log-prob without any (RLSD); rows without a right one keep their advantages as they are.

    Args:
      batch: with `numbers[number]`, λ of each row.
      now, frozen, correction, cap, truncation: as in `broadcast`.
      right, wrong: the views of the teachers, which read `logp`; wrong None for none at all.
      number: name of λ.
      clip: ε of `evidence_weight`.

    Returns:
      for the text: "advantage" and "weight" as in `broadcast`; "evidence", Δ, 0 where none is.

    Raises:
      ValueError: as `broadcast`, when log-probs were not computed, or rows have no λ.
    """
    credit = broadcast(batch, now, frozen, correction=correction, cap=cap, truncation=truncation)
    text, mask_NA = credit["text"], jnp.asarray(now["text"].mask_NA, bool)
    if number not in batch.numbers:
        raise ValueError(f"credit by evidence needs {number!r} in the rows' numbers (`annealed`).")
    here_NA = mask_NA & jnp.asarray(batch.present[right], bool)[:, None]
    for_NA = logp_of(frozen[right], "text", "evidence needs the right teacher's")
    against_NA = logp_of(frozen["old"], "text", "evidence needs the old")
    if wrong is not None:
        wrong_NA = logp_of(frozen[wrong], "text", "evidence needs the wrong teacher's")
        told_N1 = jnp.asarray(batch.present[wrong], bool)[:, None]
        against_NA = jnp.where(told_N1, wrong_NA, against_NA)
    evidence_NA = masked(for_NA, here_NA) - masked(against_NA, here_NA)
    mix_N = masked(batch.numbers[number], batch.real_N)
    weight_NA = evidence_weight(evidence_NA, text["advantage"], mix=mix_N, clip=clip)
    found = {"advantage": text["advantage"] * weight_NA, "evidence": evidence_NA}
    return {**credit, "text": {**text, **jax.lax.stop_gradient(found)}}
