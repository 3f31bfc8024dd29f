import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo.teachers import copy, during, ema


def trees():
    own = {"a": jnp.array([1.0, -0.0, 3.0]), "b": {"c": jnp.array([[0.1]], jnp.bfloat16)}}
    leader = {"a": jnp.array([2.0, 5.0, jnp.inf]), "b": {"c": jnp.array([[0.3]], jnp.bfloat16)}}
    return own, leader


def raw(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_worked_numbers():
    own, leader = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, -2.0])}
    # float32 arithmetic of two products and a sum: a few units of 6e-8
    np.testing.assert_allclose(ema(own, leader, rate=0.05)["w"], [1.1, 1.8], rtol=3e-7)
    twice = ema(ema(own, leader, rate=0.5), leader, rate=0.5)
    np.testing.assert_array_equal(twice["w"], [2.5, -1.0])


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_rate_zero_keeps_every_bit_and_rate_one_copies(wrap):
    own, leader = trees()
    kept = wrap(lambda o, lead: ema(o, lead, rate=0.0))(own, leader)
    assert raw(kept) == raw(own)
    copied = wrap(lambda o, lead: ema(o, lead, rate=1.0))(own, leader)
    assert raw(copied) == raw(leader)


def test_average_of_bfloat16_is_taken_in_float32():
    own = {"w": jnp.linspace(-1, 1, 101, dtype=jnp.bfloat16)}
    leader = {"w": jnp.linspace(2, -3, 101, dtype=jnp.bfloat16)}
    wide = [np.asarray(t["w"], np.float32) for t in (own, leader)]
    expected = (np.float32(0.7) * wide[0] + np.float32(0.3) * wide[1]).astype(jnp.bfloat16)
    found = ema(own, leader, rate=0.3)["w"]
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(found), expected)


def test_copy_never_aliases_and_keeps_own_dtypes():
    own, leader = trees()
    own["b"]["c"] = own["b"]["c"].astype(jnp.float32)
    copied = copy(own, leader)
    assert copied["b"]["c"].dtype == jnp.float32
    np.testing.assert_array_equal(copied["a"], leader["a"])
    before = raw(copied)
    for leaf in jax.tree.leaves(leader):
        leaf.delete()
    assert raw(copied) == before


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_rates_outside_the_unit_interval(rate):
    own, leader = trees()
    with pytest.raises(ValueError, match=r"ema needs a rate in \[0, 1\]"):
        ema(own, leader, rate=rate)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_trees_that_differ(rate):
    own = {"w": jnp.ones((2, 3))}
    for leader in ({"w": jnp.ones(3)}, {"v": jnp.ones((2, 3))}):
        with pytest.raises(AssertionError):
            ema(own, leader, rate=rate)


def test_during_the_first_rounds_and_then_now_and_then():
    def due(**options):
        return [n for n in range(10) if during({"round": n}, **options)]

    assert due(rounds=3) == [0, 1, 2]
    assert due(rounds=3, then_every=2) == [0, 1, 2, 4, 6, 8]
    assert due(rounds=0, then_every=4) == [3, 7]
    assert due(rounds=0) == []
    with pytest.raises(ValueError, match="must be at least 0"):
        due(rounds=-1)
