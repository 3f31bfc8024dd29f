import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxevo.advantages import group_relative, leave_one_out, zero_variance_share

ROWS = 12  # one shape for all random cases, so that each option compiles once
# float32 rounding of a mean and a std of rewards up to 4, divided by a std of at least 0.02
TOLERANCE = 2e-4


def reference(reward, group, real, scale="std", ddof=1, epsilon=1e-6, singleton="reward"):
    """The formulas row by row, in float64."""
    reward, out = np.asarray(reward, np.float64), np.zeros(len(reward))
    whole = reward[real]
    batch_std = np.sqrt(((whole - whole.mean()) ** 2).sum() / max(len(whole) - ddof, 1))
    for i in np.flatnonzero(real):
        mates = reward[real & (group == group[i])]
        divisor = {"none": 1.0, "batch": batch_std + epsilon}.get(scale)
        if len(mates) == 1:
            out[i] = reward[i] / (divisor or 1.0) if singleton == "reward" else 0.0
        elif mates.max() != mates.min():
            out[i] = (reward[i] - mates.mean()) / (divisor or mates.std(ddof=ddof) + epsilon)
    return out


@st.composite
def batches(draw):
    reward = draw(st.lists(st.integers(-40, 40), min_size=ROWS, max_size=ROWS))
    group = draw(st.lists(st.integers(0, 4), min_size=ROWS, max_size=ROWS))
    real = draw(st.lists(st.booleans(), min_size=ROWS, max_size=ROWS).filter(any))
    return np.array(reward, np.float32) / 10, np.array(group, np.int32), np.array(real)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1.499997, -0.499999, -0.499999, -0.499999]),
        ({"epsilon": 1e-4}, [1.499700, -0.499900, -0.499900, -0.499900]),
        ({"ddof": 0}, [1.732047, -0.577349, -0.577349, -0.577349]),
        ({"scale": "none"}, [0.75, -0.25, -0.25, -0.25]),
        ({"scale": "batch"}, [1.499997, -0.499999, -0.499999, -0.499999]),
    ],
)
def test_group_relative_worked_numbers(options, expected):
    got = group_relative(np.array([1.0, 0, 0, 0]), np.zeros(4, int), **options)
    assert_allclose(got, expected, atol=1e-6)  # the numbers are given to six digits


def test_leave_one_out_worked_numbers():
    got = leave_one_out(np.array([1.0, 0, 0, 0]), np.zeros(4, int))
    assert_allclose(got, [1, -1 / 3, -1 / 3, -1 / 3], atol=1e-6)


@pytest.mark.parametrize("scale", ["std", "none", "batch"])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("singleton", ["reward", "zero"])
def test_group_relative_equals_float64_reference(scale, ddof, singleton):
    options = {"scale": scale, "ddof": ddof, "singleton": singleton}
    fn = jax.jit(lambda r, g, real: group_relative(r, g, real_N=real, **options))

    @settings(max_examples=15, deadline=None)
    @given(batches())
    def check(batch):
        reward, group, real = batch
        if scale == "batch" and len(set(reward[real])) == 1:
            return  # 0 / (0 + epsilon) is rounding divided by epsilon for singletons
        assert_allclose(
            fn(reward, group, real),
            reference(reward, group, real, **options),
            rtol=TOLERANCE,
            atol=TOLERANCE,
        )

    check()


def test_scale_batch_divides_by_one_std_over_all_rows():
    reward, group = np.array([0.0, 1, 0, 10]), np.array([0, 0, 1, 1])
    got = group_relative(reward, group, scale="batch")
    assert_allclose(got, np.array([-0.5, 0.5, -5, 5]) / np.std(reward, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("value", [0.7, 0.1, 0.0, 1.0, 1 / 3])
@pytest.mark.parametrize("fn", [group_relative, leave_one_out])
def test_equal_rewards_give_exactly_zero(fn, value):
    # without the guard, seven float32 rewards of 0.7 give ±0.056
    got = fn(np.full(7, value, np.float32), np.zeros(7, int))
    assert_array_equal(got, np.zeros(7))


def test_a_group_of_one():
    reward, group = np.array([0.7, 1.0, 0.0]), np.array([2, 0, 0])
    assert_allclose(group_relative(reward, group)[0], 0.7, rtol=1e-6)
    assert group_relative(reward, group, singleton="zero")[0] == 0
    assert leave_one_out(reward, group)[0] == 0


@settings(max_examples=15, deadline=None)
@given(batches(), st.permutations(range(ROWS)), st.permutations(range(5)))
def test_advantages_follow_permutations_of_rows_and_group_names(batch, order, names):
    reward, group, real = batch
    order, renamed = np.array(order), np.array(names, np.int32)[group]
    for fn in (JITTED_GROUP, JITTED_LEAVE_ONE_OUT):
        straight = np.asarray(fn(reward, group, real))
        permuted = np.asarray(fn(reward[order], renamed[order], real[order]))
        assert_allclose(permuted, straight[order], rtol=TOLERANCE, atol=TOLERANCE)


@settings(max_examples=15, deadline=None)
@given(batches())
def test_identities_between_the_advantages(batch):
    reward, group, real = batch
    size = np.array([(real & (group == g)).sum() for g in group])
    several = real & (size > 1)
    centred = np.asarray(JITTED_CENTRED(reward, group, real))
    loo = np.asarray(JITTED_LEAVE_ONE_OUT(reward, group, real))
    grpo = np.asarray(JITTED_GROUP(reward, group, real))
    assert_allclose(
        loo[several], (centred * size / np.maximum(size - 1, 1))[several], rtol=1e-5, atol=1e-6
    )
    for g in range(5):
        mates = several & (group == g)
        for advantage in (centred, loo, grpo):
            assert abs(advantage[mates].sum()) < TOLERANCE
    shifted = np.asarray(JITTED_GROUP(reward + 8, group, real))
    assert_allclose(shifted[several], grpo[several], atol=TOLERANCE)
    doubled = np.asarray(JITTED_GROUP(reward * 2, group, real))
    assert_allclose(doubled[several], grpo[several], atol=TOLERANCE)
    assert (loo[~several] == 0).all()


def test_ddof_changes_the_advantage_by_the_square_root_of_g_minus_one_over_g():
    reward, group = np.array([1.0, 0.2, 0.4, 0.9, 0.1]), np.zeros(5, int)
    unbiased = group_relative(reward, group, ddof=1, epsilon=0.0)
    biased = group_relative(reward, group, ddof=0, epsilon=0.0)
    assert_allclose(unbiased / biased, np.sqrt(4 / 5), rtol=1e-5)


@pytest.mark.parametrize("scale", ["std", "none", "batch"])
@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e4])
def test_padding_rows_enter_no_statistic(scale, garbage):
    reward, group = np.array([1.0, 0, 0.5, 0.25]), np.array([0, 0, 1, 1])
    real = np.array([1, 1, 1, 1, 0, 0], bool)
    padded = group_relative(
        np.append(reward, [garbage] * 2), np.append(group, [0, -7]), scale=scale, real_N=real
    )
    assert_allclose(padded[:4], group_relative(reward, group, scale=scale), rtol=1e-6)
    assert_array_equal(padded[4:], [0, 0])
    loo = leave_one_out(np.append(reward, [garbage] * 2), np.append(group, [0, -7]), real_N=real)
    assert_allclose(loo, np.append(leave_one_out(reward, group), [0, 0]), rtol=1e-6)


def test_zero_variance_share():
    reward = np.array([0.1, 0.1, 0.1, 1, 0, 0.7, np.nan])
    group = np.array([3, 3, 3, 1, 1, 5, 1])
    real = np.array([1, 1, 1, 1, 1, 1, 0], bool)
    assert_allclose(zero_variance_share(reward, group, real_N=real), 2 / 3, rtol=1e-6)
    assert zero_variance_share(reward[:6], np.zeros(6, int)) == 0
    assert zero_variance_share(np.zeros(6), np.zeros(6, int)) == 1
    assert zero_variance_share(reward, group, real_N=np.zeros(7, bool)) == 0


def test_an_advantage_has_no_gradient():
    grad = jax.grad(lambda r: group_relative(r, np.array([0, 0, 0, 1]))[0])(
        np.float32([1, 0, 2, 3])
    )
    assert_array_equal(grad, np.zeros(4))


def test_refusals_say_what_to_do():
    with pytest.raises(ValueError, match=r"id 4, but the ids of 3 rows must lie in \[0, 3\)"):
        group_relative(np.zeros(3), np.array([0, 4, 0]))
    with pytest.raises(ValueError, match="id -1"):
        leave_one_out(np.zeros(3), np.array([0, -1, 0]))
    with pytest.raises(ValueError, match="scale must be"):
        group_relative(np.zeros(3), np.zeros(3, int), scale="mad")
    with pytest.raises(ValueError, match="singleton must be"):
        group_relative(np.zeros(3), np.zeros(3, int), singleton="one")
    with pytest.raises(ValueError, match="ddof=2"):
        group_relative(np.zeros(3), np.zeros(3, int), ddof=2)


JITTED_GROUP = jax.jit(lambda r, g, real: group_relative(r, g, real_N=real))
JITTED_CENTRED = jax.jit(lambda r, g, real: group_relative(r, g, scale="none", real_N=real))
JITTED_LEAVE_ONE_OUT = jax.jit(lambda r, g, real: leave_one_out(r, g, real_N=real))
