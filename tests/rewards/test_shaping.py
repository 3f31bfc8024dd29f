"""Signed scores and the penalty on long answers, by the paper's numbers."""

import pytest

from jaxevo.rewards import overlong_penalty, signed


def test_signed():
    assert [signed(score) for score in (0.0, 0.25, 1.0)] == [-1.0, -0.5, 1.0]


@pytest.mark.parametrize(
    ("length", "penalty"),
    [(0, 0.0), (16384, 0.0), (16385, -1 / 4096), (18432, -0.5), (20480, -1.0)],
)
def test_the_penalty_grows_over_the_buffer(length, penalty):
    assert overlong_penalty(length, limit=20480, buffer=4096) == penalty


def test_without_a_buffer_there_is_no_penalty_and_a_wrong_one_is_refused():
    assert overlong_penalty(20480, limit=20480, buffer=0) == 0.0
    with pytest.raises(ValueError, match=r"in \[0, 8\], got 9"):
        overlong_penalty(8, limit=8, buffer=9)
