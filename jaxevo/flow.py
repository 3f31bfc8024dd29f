"""Actions in a continuous space: flow matching as a policy whose every step has a log-prob.

Time runs from 1 (noise) to 0 (data): x_t = (1−t) x₀ + t ε, velocity v = ε − x₀. A step from t to
t' = t + dt, dt < 0, is drawn from a Gaussian whose chain has the marginals of the ODE x' = x + v dt
for any noise level a:

    σ  = a √(t / (1−t))                                         at t = 1 with t' in 1−t
    x' = x (1 + σ² dt / 2t) + v (1 + σ² (1−t) / 2t) dt + σ √(−dt) z,   z ~ N(0, I)

References: Liu et al., Flow-GRPO, arXiv 2505.05470, section 4.2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.types import Answers, Array, Params


class Step(NamedTuple):
    """The Gaussian of one step: mean [..., d] and standard deviation [..., 1]."""

    mean: jax.Array
    std: jax.Array


def time_grid(steps: int) -> np.ndarray:
    """(t, t') of every step, [steps, 2] float32: evenly spaced from 1 to 0."""
    edges = np.linspace(1.0, 0.0, steps + 1, dtype=np.float32)
    return np.stack([edges[:-1], edges[1:]], -1)


def sde_step(x: Array, velocity: Array, time: Array, noise: Array) -> Step:
    """Mean and standard deviation of the next state.

    Args:
      x: states [..., d].
      velocity: v(x, t) [..., d].
      time: (t, t') [..., 2], 1 >= t > t' >= 0.
      noise: a > 0 [...], the noise level.

    Returns:
      mean and std in float32.
    """
    x, velocity, time = (jnp.asarray(a, jnp.float32) for a in (x, velocity, time))
    t, after = time[..., :1], time[..., 1:]
    dt = after - t
    left = 1.0 - jnp.where(t >= 1.0, after, t)
    variance = jnp.square(jnp.asarray(noise, jnp.float32))[..., None] * t / left  # σ²
    drift = 1.0 + variance * (1.0 - t) / (2.0 * t)
    mean = x * (1.0 + variance * dt / (2.0 * t)) + velocity * drift * dt
    return Step(mean, jnp.sqrt(variance * -dt))


def ode_step(x: Array, velocity: Array, time: Array) -> jax.Array:
    """x + v dt, the step without noise."""
    return jnp.asarray(x + velocity * (time[..., 1:] - time[..., :1]), jnp.float32)


def gaussian_logp(x: Array, step: Step) -> jax.Array:
    """Σ_d log N(x_d; mean_d, std²), exact, in nats; [...]."""
    z = (x - step.mean) / step.std
    each = -0.5 * jnp.square(z) - jnp.log(step.std) - 0.5 * math.log(2.0 * math.pi)
    return each.sum(-1)


# ---------------------------------------------------------------------------- the velocity
def init_velocity(key: Array, *, context: int, size: int, width: int) -> Params:
    """A two-layer network for the velocity that says 0 until it is trained.

    Args:
      key: of the random weights.
      context: numbers that the velocity is conditioned on.
      size: d, numbers of a state.
      width: hidden units of a layer.
    """
    inputs = size + 3 + context
    first, second = jax.random.split(key)
    return {
        "w1": jax.random.normal(first, (inputs, width)) / math.sqrt(inputs),
        "b1": jnp.zeros(width),
        "w2": jax.random.normal(second, (width, width)) / math.sqrt(width),
        "b2": jnp.zeros(width),
        "w3": jnp.zeros((width, size)),
        "b3": jnp.zeros(size),
    }


def velocity(params: Params, x: Array, t: Array, context: Array) -> jax.Array:
    """v(x, t, context), [..., d] float32.

    Args:
      params: from `init_velocity`.
      x: states [..., d].
      t: times [...].
      context: [..., D].
    """
    angle = jnp.asarray(t, jnp.float32)[..., None] * jnp.pi
    clock = jnp.concatenate([angle / jnp.pi, jnp.sin(angle), jnp.cos(angle)], -1)
    inputs = jnp.concatenate([x, clock, jnp.asarray(context, jnp.float32)], -1)
    hidden = jax.nn.silu(inputs @ params["w1"] + params["b1"])
    hidden = jax.nn.silu(hidden @ params["w2"] + params["b2"])
    return hidden @ params["w3"] + params["b3"]


# ---------------------------------------------------------------------------- the policy
def transition_logp(params: Params, context_ND: Array, moves: Answers) -> jax.Array:
    """Log-prob of every recorded step under the velocity, [N, T] float32, in nats.

    Args:
      params: from `init_velocity`.
      context_ND: what each row is conditioned on.
      moves: `data` as `draw` gives it. Steps outside the mask give a finite number without meaning
        and no gradient that is not finite, whatever stands there.
    """
    mask_NT = jnp.asarray(moves.mask_NA, bool)
    still = {"before": 0.0, "after": 0.0, "time": jnp.array([0.5, 0.25]), "noise": 1.0}
    data = {
        name: jnp.where(jnp.reshape(mask_NT, mask_NT.shape + (1,) * (x.ndim - 2)), x, still[name])
        for name, x in moves.data.items()
    }
    context = jnp.broadcast_to(context_ND[:, None], (*mask_NT.shape, context_ND.shape[-1]))
    v = velocity(params, data["before"], data["time"][..., 0], context)
    step = sde_step(data["before"], v, data["time"], data["noise"])
    return gaussian_logp(data["after"], step)


def draw(
    params: Params, keys_N: Array, context_ND: Array, *, noise: float, noisy_T: Array
) -> dict[str, jax.Array]:
    """One chain per row from noise to data.

    Args:
      params: from `init_velocity`.
      keys_N: one key per row.
      context_ND: what each row is conditioned on.
      noise: a > 0, the noise level of noisy steps.
      noisy_T: bool, the steps that are drawn; the others follow the ODE and have no log-prob.

    Returns:
      before, after [N, T, d], time [N, T, 2], noise [N, T], mask [N, T], logp [N, T] (0 where the
      mask is not set).
    """
    N, steps = context_ND.shape[0], noisy_T.shape[0]
    size = params["b3"].shape[0]

    def normal(index: Array) -> jax.Array:
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_N, index)
        return jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)

    def move(x_Nd: Array, scanned: tuple[Array, Array, Array]) -> tuple[Array, dict]:
        index, time, noisy = scanned
        v = velocity(params, x_Nd, jnp.full(N, time[0]), context_ND)
        step = sde_step(x_Nd, v, jnp.broadcast_to(time, (N, 2)), jnp.full(N, noise))
        drawn = step.mean + step.std * normal(index + 1)
        after = jnp.where(noisy, drawn, ode_step(x_Nd, v, time))
        logp_N = jnp.where(noisy, gaussian_logp(after, step), 0.0)
        return after, {"before": x_Nd, "after": after, "logp": logp_N}

    grid = time_grid(steps)
    _, moves = jax.lax.scan(move, normal(jnp.int32(0)), (jnp.arange(steps), grid, noisy_T))
    return {
        **{name: jnp.swapaxes(x_TN, 0, 1) for name, x_TN in moves.items()},
        "time": jnp.broadcast_to(grid, (N, steps, 2)),
        "noise": jnp.full((N, steps), noise, jnp.float32),
        "mask": jnp.broadcast_to(noisy_T, (N, steps)),
    }
