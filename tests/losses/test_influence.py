import numpy as np
import pytest

from jaxevo.losses.influence import adam_direction, gradient_similarity

G, V, REFERENCE = np.array([1.0, 0.1]), np.array([4.0, 1e-4]), np.array([1.0, 1.0])


def trees():
    """The same two numbers as a tree of two leaves."""
    return [
        {"a": x[:1].astype(np.float32), "b": x[1:].astype(np.float32)} for x in (G, REFERENCE, V)
    ]


def test_worked_numbers():
    gradient, reference, moment = trees()
    direction = adam_direction(gradient, moment, 10, epsilon=1e-8)
    got = [float(direction["a"][0]), float(direction["b"][0])]
    np.testing.assert_allclose(got, [0.052329, 0.997958], atol=1e-5)
    wanted = {
        "preconditioned_dot": 1.050287,
        "preconditioned_cosine": 0.743164,
        "cosine": 0.773957,
        "dot": 1.1,
    }
    for similarity, value in wanted.items():
        found = gradient_similarity(gradient, reference, moment, 10, similarity=similarity)
        assert float(found) == pytest.approx(value, abs=2e-5)  # 1 - 0.999^11 in float32


def test_a_fresh_adam_gives_signs_and_no_gradient_gives_nothing():
    gradient, reference, moment = trees()
    fresh = {name: 0 * x for name, x in moment.items()}
    direction = adam_direction({"a": gradient["a"], "b": -gradient["b"]}, fresh, 0, epsilon=1e-8)
    np.testing.assert_allclose([direction["a"][0], direction["b"][0]], [1, -1], atol=1e-4)
    nothing = {name: 0 * x for name, x in gradient.items()}
    assert float(gradient_similarity(nothing, reference, moment, 3)) == 0.0


def test_an_unknown_similarity_is_refused():
    gradient, reference, moment = trees()
    with pytest.raises(ValueError, match="unknown similarity 'cos'"):
        gradient_similarity(gradient, reference, moment, 0, similarity="cos")
