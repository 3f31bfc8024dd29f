import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from jaxevo.losses import entropy_quantile_mask

N, A = 4, 5


@pytest.mark.parametrize("keep", [0.2, 0.37, 0.5, 1.0])
def test_equals_the_numpy_quantile_over_valid_tokens(keep):
    fn = jax.jit(lambda h, m: entropy_quantile_mask(h, m, keep=keep))

    @settings(max_examples=20, deadline=None)
    @given(st.permutations(range(N * A)), st.integers(0, 2**20 - 1))
    def check(order, bits):
        entropy = np.array(order, np.float32).reshape(N, A) / 8
        mask = (np.array([bits >> i & 1 for i in range(N * A)]) == 1).reshape(N, A)
        if mask.any():
            want = mask & (entropy >= np.quantile(entropy[mask], 1 - keep) - 1e-4)
        else:
            want = mask
        assert_array_equal(fn(np.where(mask, entropy, np.nan), mask), want)

    check()


def test_the_quantile_is_global_and_ties_stay():
    entropy = np.array([[3.0, 3.0, 0.1], [0.2, 0.0, 9.0]])
    mask = np.array([[1, 1, 1], [1, 1, 0]], bool)
    kept = entropy_quantile_mask(entropy, mask, keep=0.4)
    assert_array_equal(kept, [[1, 1, 0], [0, 0, 0]])


def test_a_quantile_that_falls_on_a_token_keeps_it():
    entropy = np.arange(76, dtype=np.float32).reshape(4, 19)
    kept = entropy_quantile_mask(entropy, np.ones((4, 19), bool), keep=0.28)
    assert_array_equal(kept, entropy >= 54)  # 0.72 * 75 = 54, but not in float32


@pytest.mark.parametrize("keep", [0.0, 1.5])
def test_a_share_outside_its_range_is_refused(keep):
    with pytest.raises(ValueError, match="share of tokens kept"):
        entropy_quantile_mask(np.zeros((1, 1)), np.ones((1, 1)), keep=keep)
