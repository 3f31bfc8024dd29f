"""Attention over packed trees: every implementation is the dense one, gradients too."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo.kernels.aot import ENVIRONMENT, TOPOLOGIES
from jaxevo.models.attention import Trees, attend, attend_trees, near


def random_trees(generator, rows, slots):
    """Stretches that lie in each other, as a tree laid out depth first, and padding."""
    until_BS = np.zeros((rows, slots), np.int32)
    for b in range(rows):
        used = int(generator.integers(slots // 2, slots + 1))
        open_until = [used]
        for k in range(used):
            while k >= open_until[-1]:
                open_until.pop()
            until_BS[b, k] = int(generator.integers(k + 1, open_until[-1] + 1))
            open_until.append(until_BS[b, k])
    return Trees(until_BS)


def qkv(generator, rows, slots, heads, kv_heads, head_dim):
    shapes = [(rows, slots, heads, head_dim)] + [(rows, kv_heads, slots, head_dim)] * 2
    return [generator.normal(size=shape).astype(np.float32) for shape in shapes]


def limited(window, cap):
    """What a family adds to attention over trees of 2 rows, as options of `attend_trees`."""
    generator = np.random.default_rng(3)
    return lambda slots: {
        "near_BSS": window and np.asarray(near(*2 * (positions(generator, slots),), window)),
        "cap": cap,
    }


def positions(generator, slots):
    """Rotary positions of 2 rows that now and then start again."""
    step_BS = np.where(generator.random((2, slots)) < 0.9, 1, -3)
    return np.maximum(np.cumsum(step_BS, axis=1), 0)


LIMITS = [limited(None, None), limited(4, 1.5)]


def numpy_attention(q, k, v, mask_BSS, cap):
    B, S, H, _ = q.shape
    out = np.zeros(q.shape)
    for b in range(B):
        for h in range(H):
            kv = h * k.shape[1] // H
            for s in range(S):
                seen = np.flatnonzero(mask_BSS[b, s])
                score = k[b, kv, seen].astype(np.float64) @ q[b, s, h] / np.sqrt(q.shape[-1])
                score = cap * np.tanh(score / cap) if cap else score
                weight = np.exp(score - score.max())
                out[b, s, h] = weight @ v[b, kv, seen] / weight.sum()
    return out.reshape(B, S, -1)


def test_trees_say_who_sees_whom():
    # 0 1 are a prompt, 2 3 one answer, 4 another, 5 is padding.
    mask_SS = np.asarray(Trees(np.array([[5, 5, 4, 4, 5, 0]])).mask()[0])
    assert [np.flatnonzero(row).tolist() for row in mask_SS] == [
        [0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [5],
    ]  # fmt: skip


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("implementation", ["dense", "splash_interpret"])
def test_attention_over_trees_is_softmax_over_what_is_seen(implementation, limits):
    generator, options = np.random.default_rng(0), limits(40)
    trees, args = random_trees(generator, 2, 40), qkv(generator, 2, 40, 4, 2, 8)
    mask_BSS = np.asarray(trees.mask())
    if options["near_BSS"] is not None:
        assert (mask_BSS & ~options["near_BSS"]).any()
        mask_BSS = mask_BSS & options["near_BSS"]
    wanted = numpy_attention(*args, mask_BSS, options["cap"])

    @jax.jit
    def over(trees, *x):
        return attend_trees(trees, implementation=implementation, **options)(*x)

    np.testing.assert_allclose(over(trees, *args), wanted, atol=2e-5)


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("slots", [130, 256])
def test_splash_has_the_gradients_of_dense_attention(slots, limits):
    generator, options = np.random.default_rng(1), limits(slots)
    trees, args = random_trees(generator, 2, slots), qkv(generator, 2, slots, 2, 1, 16)
    weight = generator.normal(size=(2, slots, 32)).astype(np.float32)

    def gradients(implementation):
        def loss(*args):
            over = attend_trees(trees, implementation=implementation, **options)
            return (over(*args) * weight).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*args)

    for own, wanted in zip(gradients("splash_interpret"), gradients("dense"), strict=True):
        np.testing.assert_allclose(own, wanted, atol=2e-4)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu is not installed")
@pytest.mark.soak
@pytest.mark.parametrize("chip", TOPOLOGIES)
@pytest.mark.parametrize("window", [0, 512])
def test_splash_compiles_for_tpus_without_the_scores(chip, window):
    rows, slots, heads = 2, 2048, 16
    sizes = map(str, (rows, slots, heads, 8, 64, window))  # 8 key-value heads of width 64
    script = Path(__file__).with_name("aot_attention.py")
    done = subprocess.run(
        [sys.executable, str(script), chip, *sizes],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    scores = 4 * rows * heads * slots**2
    assert json.loads(done.stdout.splitlines()[-1]) < 0.4 * scores


def test_a_slot_that_sees_nothing_is_finite():
    args = qkv(np.random.default_rng(2), 1, 3, 1, 1, 4)
    assert np.isfinite(attend(*args, jnp.zeros((1, 3, 3), bool))).all()


def test_an_unknown_implementation_is_named():
    with pytest.raises(ValueError, match="implementation='flash' is unknown"):
        attend_trees(Trees(np.zeros((1, 4), np.int32)), implementation="flash")
