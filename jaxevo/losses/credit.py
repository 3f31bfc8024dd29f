"""Which action gets which credit: `(batch, now, frozen) -> {stream: {name: [N, A]}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.losses.policy import importance_weight, off_policy_mask
from jaxevo.losses.reduce import masked
from jaxevo.types import Array, Batch, Stream

Correction = Literal["none", "token", "sequence", "token_mask", "sequence_mask"]
Truncation = Literal["correct", "refuse", "ignore"]


def broadcast(
    batch: Batch,
    now: Mapping[str, Stream],
    frozen: Mapping[str, Mapping[str, Stream]],
    *,
    correction: Correction = "none",
    cap: float = 2.0,
    floor: float | None = None,
    drop_above: float | None = None,
    truncation: Truncation = "correct",
    streams: tuple[str, ...] = ("text",),
) -> dict[str, dict[str, jax.Array]]:
    """Every action gets its own or its row's advantage, and a weight for who really sampled it.

    The sampler differs from the old policy in its numerics, and in its weights where a round was
    sampled ahead (`correction`), and in what it cut (`truncation`): top-k, top-p and min-p sample
    from π/kept, so that a token's weight has a factor `kept` <= 1.

    | correction | truncation | weight |
    |---|---|---|
    | none | correct | kept |
    | none | ignore, refuse | (absent: 1) |
    | any other | correct, refuse | `importance_weight(ℓ_old, ℓ_behaviour)` |
    | any other | ignore | `importance_weight(ℓ_old, ℓ_behaviour + log kept)` |

    Rows whose sampler log-probs are unknown get weight 1. Whether that is right, and whether
    "refuse" is kept, only the host can tell: `refuse_uncorrectable`.

    Args:
      batch: with `advantage_N` filled.
      now: current forward; only the masks are read.
      frozen: frozen views; `old` is read for a correction.
      correction: none, or importance weights per token or per row, cut at `cap` (TIS: token,
        sequence) or 0 above it (MIS: token_mask, sequence_mask).
      cap: the largest weight, above 0; not read without a correction.
      floor: the smallest weight, below which it is raised (TIS) or 0 (MIS); None for none.
      drop_above: δ of `off_policy_mask`; None keeps all.
      truncation: what to do about tokens that the sampler cut.
      streams: the streams of actions that get the credit.

    Returns:
      by stream: "advantage" [N, A] float32; "weight" [N, A] float32 as in the table; "keep" [N, A]
      bool with `drop_above`. None has a gradient; masked slots have advantage 0 and weight 1.

    Raises:
      ValueError: for an unknown option, or when the old log-probs were not computed.
    """
    _check_options(correction, truncation)
    if batch.advantage_N is None:
        raise ValueError("batch.advantage_N is None; fill it with objective.advantage first.")
    credit = {}
    for stream in streams:
        mask_NA = jnp.asarray(now[stream].mask_NA, bool)
        advantage = jnp.asarray(batch.advantage_N)
        advantage = advantage[:, None] if advantage.ndim == 1 else advantage
        advantage_NA = jnp.broadcast_to(advantage, mask_NA.shape)
        credit[stream] = {"advantage": jax.lax.stop_gradient(masked(advantage_NA, mask_NA))}
        answers = batch.answers[stream]
        known_NA = mask_NA & jnp.asarray(answers.known_N, bool)[:, None]
        if correction != "none":
            old_NA = logp_of(frozen["old"], stream, f"correction={correction!r} needs the old")
            behaviour_NA = jnp.asarray(answers.behaviour_NA)
            if truncation == "ignore":
                behaviour_NA = behaviour_NA + answers.log_kept_NA
            credit[stream]["weight"] = importance_weight(
                old_NA,
                behaviour_NA,
                known_NA,
                level="token" if correction.startswith("token") else "sequence",
                cap=cap,
                floor=floor,
                outside="mask" if correction.endswith("mask") else "truncate",
            )
        elif truncation == "correct":
            credit[stream]["weight"] = jnp.exp(masked(answers.log_kept_NA, known_NA))
        if drop_above is not None:
            logp_NA = logp_of(now, stream, "drop_above needs the current")
            given_NA = credit[stream]["advantage"]
            credit[stream]["keep"] = off_policy_mask(
                logp_NA, answers.behaviour_NA, given_NA, known_NA, drop_above=drop_above
            )
    return credit


def distilled(
    batch: Batch,
    now: Mapping[str, Stream],
    frozen: Mapping[str, Mapping[str, Stream]],
    *,
    view: str = "teacher",
    ratio_cap: float = 2.0,
    correction: Correction = "none",
    cap: float = 2.0,
    truncation: Truncation = "correct",
) -> dict[str, dict[str, jax.Array]]:
    """`broadcast`'s credit, and what a divergence at each token is multiplied by.

    distill_weight = min(exp(clip(ℓ − ℓ_old, ±20)), ratio_cap) · weight, without gradient: how much
    likelier the policy is to come to the token now than it was when the phase started, and the
    weight for who sampled it. Of the round's first update, the ratio is 1.

    Args:
      batch, now, frozen, correction, cap, truncation: as in `broadcast`.
      view: the teacher's. Where its log-probs were read, "teacher_advantage" is log q − log p of
        each token, 0 on rows without its context: below 0 the teacher would take the token back.
      ratio_cap: the largest ratio, above 0.

    Raises:
      ValueError: as `broadcast`, or when the current log-probs were not computed.

    References:
      arXiv 2601.20802 (SDPO) and its official code.
    """
    credit = broadcast(batch, now, frozen, correction=correction, cap=cap, truncation=truncation)
    text, mask_NA = credit["text"], jnp.asarray(now["text"].mask_NA, bool)
    needs = "the ratio of a distillation needs the"
    logp_NA = logp_of(now, "text", f"{needs} current")
    old_NA = logp_of(frozen["old"], "text", f"{needs} old")
    weight_NA = importance_weight(logp_NA, old_NA, mask_NA, cap=ratio_cap)
    if "weight" in text:
        weight_NA = weight_NA * text["weight"]
    found = {"distill_weight": weight_NA}
    teacher_NA = frozen[view]["text"].logp_NA if view in frozen else None
    if teacher_NA is not None:
        here_NA = mask_NA & jnp.asarray(batch.present[view], bool)[:, None]
        gain_NA = masked(teacher_NA, here_NA) - masked(logp_NA, here_NA)
        found["teacher_advantage"] = jax.lax.stop_gradient(gain_NA)
    return {**credit, "text": {**text, **found}}


def logp_of(streams: Mapping[str, Stream], name: str, needs: str) -> Array:
    """The log-probs of a stream.

    Raises:
      ValueError: that begins with `needs`, when they were not computed.
    """
    logp_NA = streams[name].logp_NA
    if logp_NA is None:
        raise ValueError(f'{needs} log-probs of {name!r}: add "logp" to `read`.')
    return logp_NA


def refuse_uncorrectable(
    batch: Batch,
    *,
    correction: Correction = "none",
    truncation: Truncation = "correct",
    streams: tuple[str, ...] = ("text",),
) -> None:
    """Host-side check, before jit, that `broadcast` can weigh every token as its options ask.

    Args:
      batch: numpy arrays; the whole batch.
      correction: as in `broadcast`.
      truncation: as in `broadcast`.
      streams: as in `broadcast`.

    Raises:
      ValueError: when a correction is asked for but rows have no sampler log-probs, or when the
        sampler cut tokens and this is refused, or is to be corrected on rows without log-probs.
    """
    _check_options(correction, truncation)
    for stream in streams:
        _refuse_uncorrectable(batch, stream, correction, truncation)


def _refuse_uncorrectable(batch: Batch, stream: str, correction: str, truncation: str) -> None:
    answers = batch.answers[stream]
    mask_NA = np.asarray(answers.mask_NA, bool) & np.asarray(batch.real_N, bool)[:, None]
    sampled_N = mask_NA.any(axis=1)
    cut_N = (mask_NA & (np.asarray(answers.log_kept_NA) != 0)).any(axis=1)
    unknown_N = sampled_N & ~np.asarray(answers.known_N, bool)
    if truncation == "refuse" and cut_N.any():
        raise ValueError(
            f"{cut_N.sum()} of {sampled_N.sum()} rows were sampled with top-k, top-p or min-p, but "
            'truncation="refuse" allows none. Sample without, or use "correct" or "ignore".'
        )
    if correction != "none" and unknown_N.any():
        raise ValueError(
            f"{unknown_N.sum()} of {sampled_N.sum()} rows have no sampler log-probs, which "
            f'correction={correction!r} needs. Use correction="none", or rows that were not edited.'
        )
    if truncation == "correct" and (unknown_N & cut_N).any():
        raise ValueError(
            f"{(unknown_N & cut_N).sum()} of {sampled_N.sum()} rows were sampled with top-k, top-p "
            "or min-p and then edited, so that their truncation cannot be corrected. Sample "
            'without, or use truncation="ignore".'
        )


def _check_options(correction: str, truncation: str) -> None:
    known = get_args(Correction)
    if correction not in known:
        raise ValueError(f"correction must be one of {', '.join(known)}, got {correction!r}.")
    if truncation not in ("correct", "refuse", "ignore"):
        raise ValueError(f'truncation must be "correct", "refuse" or "ignore", got {truncation!r}.')
