"""The flow policy: worked numbers, the marginals of Gaussian data, and masked steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo import flow
from jaxevo.types import Answers

WIDTH, CONTEXT = 8, 3
pytestmark = pytest.mark.usefixtures("quick_to_compile")


def head(key=0, *, trained=True):
    params = flow.init_velocity(jax.random.key(key), context=CONTEXT, size=2, width=WIDTH)
    last = jax.random.normal(jax.random.key(9), params["w3"].shape)
    return {**params, "w3": last} if trained else params


def test_one_step_has_the_worked_numbers():
    """00-multimodal-substrate: t .8 -> .7, a .7, x 1, v .5: mean .815250, std .442719."""
    step = flow.sde_step(np.array([1.0]), np.array([0.5]), np.array([0.8, 0.7]), np.array(0.7))
    assert float(step.mean[0]) == pytest.approx(0.815250, abs=1e-6)
    assert float(step.std[0]) == pytest.approx(0.442719, abs=1e-6)
    logp = flow.gaussian_logp(np.array([0.9]), step)
    assert float(logp) == pytest.approx(-0.122441, abs=1e-6)
    both = flow.gaussian_logp(np.array([0.9, 0.9]), step)
    assert float(both) == pytest.approx(2 * -0.122441, abs=2e-6)


def test_without_noise_the_step_is_the_odes():
    x, v, time = np.array([1.0, -2.0]), np.array([0.5, 0.25]), np.array([0.8, 0.7])
    step = flow.sde_step(x, v, time, np.array(1e-6))
    np.testing.assert_allclose(step.mean, flow.ode_step(x, v, time), atol=1e-6)
    np.testing.assert_allclose(flow.ode_step(x, v, time), x - 0.1 * v, atol=1e-6)


def test_the_first_step_is_finite_and_takes_the_next_time_in_its_noise():
    step = flow.sde_step(np.array([1.0]), np.array([0.5]), np.array([1.0, 0.9]), np.array(0.7))
    variance = 0.7**2 * 1.0 / (1 - 0.9)
    assert float(step.std[0]) == pytest.approx(np.sqrt(variance * 0.1), rel=1e-6)
    wanted = 1.0 * (1 - variance * 0.1 / 2) - 0.5 * 0.1
    assert float(step.mean[0]) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("noise", [0.3, 0.7])
def test_the_chain_keeps_the_marginals_of_gaussian_data(noise):
    """Data N(m, s²) has v = -m + (t - (1-t)s²) / ((1-t)²s² + t²) · (x - (1-t)m); the chain must
    have mean (1-t)m and variance (1-t)²s² + t² at every t, whatever the noise."""
    m, s, steps, rows = 1.5, 0.5, 400, 20_000
    grid = flow.time_grid(steps)

    def move(x, scanned):
        key, time = scanned
        t = time[0]
        slope = (t - (1 - t) * s**2) / ((1 - t) ** 2 * s**2 + t**2)
        v = -m + slope * (x - (1 - t) * m)
        step = flow.sde_step(x, v, jnp.broadcast_to(time, (rows, 2)), jnp.full(rows, noise))
        x = step.mean + step.std * jax.random.normal(key, x.shape)
        return x, (x.mean(), x.std())

    keys = jax.random.split(jax.random.key(1), steps)
    start = jax.random.normal(jax.random.key(0), (rows, 1))
    _, (mean_T, std_T) = jax.lax.scan(move, start, (keys, grid))
    # 20,000 draws: the mean's standard error is .007 at most. The noise is large near t = 1, where
    # the steps are coarse for it (.05 off at once, forgotten by t = .8): read from there on.
    late = slice(steps // 5, None)
    after = grid[late, 1]
    np.testing.assert_allclose(mean_T[late], (1 - after) * m, atol=0.03)
    wanted = np.sqrt(((1 - after) * s) ** 2 + after**2)
    np.testing.assert_allclose(std_T[late], wanted, atol=0.02)


def chains(noisy, rows=5):
    keys = jax.random.split(jax.random.key(3), rows)
    context = jax.random.normal(jax.random.key(4), (rows, CONTEXT))
    return flow.draw(head(), keys, context, noise=0.7, noisy_T=np.array(noisy)), context


def as_answers(moves):
    data = {n: moves[n] for n in ("before", "after", "time", "noise")}
    zero = np.zeros(moves["mask"].shape, np.float32)
    return Answers(None, moves["mask"], moves["logp"], zero, np.ones(len(zero), bool), None, data)


def test_a_chain_is_scored_as_it_was_drawn():
    moves, context = chains([False, True, True, True, False])
    logp = flow.transition_logp(head(), context, as_answers(moves))
    np.testing.assert_allclose(
        np.where(moves["mask"], logp, 0), moves["logp"], atol=1e-5
    )  # float32, sums of two
    assert np.abs(np.asarray(moves["logp"])[:, 1:4]).min() > 0
    np.testing.assert_array_equal(moves["before"][:, 1:], moves["after"][:, :-1])
    v = flow.velocity(head(), moves["before"][:, 0], jnp.ones(5), context)
    np.testing.assert_allclose(moves["after"][:, 0], moves["before"][:, 0] - 0.2 * v, atol=1e-6)


def test_a_rows_chain_hangs_on_its_key_alone():
    keys = jax.random.split(jax.random.key(3), 5)
    context = jax.random.normal(jax.random.key(4), (5, CONTEXT))
    noisy = np.ones(4, bool)
    whole = flow.draw(head(), keys, context, noise=0.7, noisy_T=noisy)
    alone = flow.draw(head(), keys[2:3], context[2:3], noise=0.7, noisy_T=noisy)
    np.testing.assert_allclose(whole["after"][2:3], alone["after"], atol=1e-6)
    assert np.abs(whole["after"][0] - whole["after"][1]).max() > 0.1


def test_the_log_prob_has_the_gradient_of_a_plain_normal():
    moves, context = chains([True, True, True])
    answers = as_answers(moves)

    def plain(params):
        total = 0.0
        for n in range(5):
            for j in range(3):
                time = moves["time"][n, j]
                v = flow.velocity(params, moves["before"][n, j], time[0], context[n])
                step = flow.sde_step(moves["before"][n, j], v, time, jnp.float32(0.7))
                total += jax.scipy.stats.norm.logpdf(
                    moves["after"][n, j], step.mean, step.std
                ).sum()
        return total

    got = jax.grad(lambda p: flow.transition_logp(p, context, answers).sum())(head())
    for name, wanted in jax.jit(jax.grad(plain))(head()).items():
        np.testing.assert_allclose(got[name], wanted, rtol=1e-4, atol=1e-4, err_msg=name)


def test_garbage_in_masked_steps_changes_neither_value_nor_gradient():
    moves, context = chains([False, True, False])
    answers = as_answers(moves)

    def loss(params, answers):
        logp = flow.transition_logp(params, context, answers)
        return jnp.where(answers.mask_NA, logp, 0).sum()

    want, gradient = jax.value_and_grad(loss)(head(), answers)
    for garbage in (np.nan, np.inf, 1e4, 0.0):
        data = {
            n: np.where(np.reshape(moves["mask"], (5, 3) + (1,) * (x.ndim - 2)), x, garbage)
            for n, x in answers.data.items()
        }
        dirty = Answers(**{**vars(answers), "data": data})
        got, other = jax.value_and_grad(loss)(head(), dirty)
        assert float(got) == float(want)
        jax.tree.map(np.testing.assert_array_equal, gradient, other)
