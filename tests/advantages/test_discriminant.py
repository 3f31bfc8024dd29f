import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxevo.advantages.discriminant import discriminant_coefficients, side_sums, token_directions

VECTOR = np.array([[[2.0, 0], [0, 1]], [[-1, 0], [0, 1]]])  # rows of A = +1 and −1
ADVANTAGE, MASK = np.array([1.0, -1.0]), np.ones((2, 2), bool)
FIRST, ONCE = [5.25, -0.75, 3.75, 0.75], [1.054679, 0.868001, 1.082884, 0.994436]


def found(vector, advantage, mask, **options):
    """λ̄ of each token, and what was asked on the way."""
    asked = []
    vector = jnp.where(mask[..., None], jnp.asarray(vector, jnp.float32), 0.0)

    def read(boundary):
        said = side_sums(vector, mask, advantage, boundary)
        asked.append((boundary, said))
        return said

    return discriminant_coefficients(read, advantage, mask, **options), asked


def plain(vector, advantage, mask, *, refinements=1, low=0.8, high=1.2):
    """By distances, in float64."""
    v, own = vector[mask], np.broadcast_to(advantage[:, None], mask.shape)[mask]
    sides = own > 0, own < 0

    def margins(centres):
        plus, minus = (((v - centre) ** 2).sum(1) for centre in centres)
        return np.where(own > 0, minus - plus, plus - minus)

    def weigh(s):
        return [(s * abs(own))[k] @ v[k] / (s * abs(own))[k].sum() for k in sides]

    def sigma(m, scale):
        return 1 / (1 + np.exp(-m / np.where(own > 0, *scale)))

    centres = weigh(np.ones(len(v)))
    scale = [margins(centres)[k].std() for k in sides]
    for _ in range(refinements):
        m = margins(centres)
        centres, scale = weigh(sigma(m, scale)), [m[k].std() for k in sides]
    lam = np.where(own == 0, low, low + (high - low) * sigma(margins(centres), scale))
    out = np.ones(mask.shape)
    out[mask] = lam * len(lam) / lam.sum()
    return out


def drawn(seed=0, rows=12, A=7, D=5):
    rng = np.random.default_rng(seed)
    mask = np.arange(A)[None] < rng.integers(1, A + 1, rows)[:, None]
    advantage = np.where(np.arange(rows) % 4 == 3, 0.0, rng.normal(size=rows))
    return rng.normal(size=(rows, A, D)) + advantage[:, None, None] * 0.3, advantage, mask


# ---------------------------------------------------------------------------- worked numbers
def test_worked_numbers_of_one_refinement():
    got, asked = found(VECTOR, ADVANTAGE, MASK)
    assert_allclose(got.ravel(), ONCE, atol=2e-6)  # float32 passes, six decimals
    assert len(asked) == 4
    (_, first), (edge, second), (scaled, _), (refined, _) = asked
    assert_allclose(first["vector"] / first["share"][:, None], [[1, 0.5], [-0.5, 0.5]])
    assert_allclose(edge[0], [3.0, 0.0])
    assert_allclose(second["margin"].ravel(), FIRST, atol=1e-6)
    assert_allclose(scaled[2], [3.0, 1.5], rtol=1e-6)
    assert_allclose(refined[2], [3.0, 1.5], rtol=1e-6)
    plus, minus = np.array([[1.321086, 0.339457], [-0.597531, 0.402469]])
    assert_allclose(refined[0], 2 * (plus - minus), atol=2e-6)
    assert refined[1] == pytest.approx(plus @ plus - minus @ minus, abs=5e-6)


def test_worked_numbers_of_two_refinements():
    got, asked = found(VECTOR, ADVANTAGE, MASK, refinements=2)
    lam = np.array([1.134361, 0.954525, 1.180304, 1.090274])
    assert_allclose(got.ravel(), lam / lam.mean(), atol=2e-6)
    assert_allclose(asked[-1][0][2], [3.900246, 1.855605], rtol=1e-6)


def test_worked_numbers_with_a_row_of_no_advantage():
    vector = np.concatenate([VECTOR, [[[5.0, 5.0], [9.0, 9.0]]]])
    mask = np.array([[1, 1], [1, 1], [1, 0]], bool)
    got, _ = found(vector, np.array([1.0, -1.0, 0.0]), mask)
    want = [1.115028, 0.917668, 1.144846, 1.051337, 0.771121]
    assert_allclose(got[mask], want, atol=2e-6)
    assert got[2, 1] == 1.0


# ---------------------------------------------------------------------------- the formula
@pytest.mark.parametrize(
    "options", [{}, {"refinements": 0}, {"refinements": 3}, {"low": 0.5, "high": 2.0}]
)
def test_passes_give_what_distances_give(options):
    vector, advantage, mask = drawn()
    got, asked = found(vector, advantage, mask, **options)
    assert_allclose(got, plain(vector, advantage, mask, **options), rtol=2e-5)  # float32 passes
    assert len(asked) == options.get("refinements", 1) + 3
    assert got[mask].mean() == pytest.approx(1.0, abs=1e-12)


def test_what_does_not_matter():
    vector, advantage, mask = drawn(1)
    want = plain(vector, advantage, mask)
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))
    for changed, row in (
        (vector @ turn, advantage),
        (vector + 0.7, advantage),
        (30 * vector, advantage),
        (vector, 5 * advantage),
        (vector, -advantage),
    ):
        assert_allclose(found(changed, row, mask)[0], want, rtol=5e-5)  # float32 passes


def test_padding_may_hold_anything():
    vector, _, mask = drawn(3)
    logp = np.log(np.random.default_rng(4).uniform(0.1, 1, mask.shape))
    dirty = [np.where(m, x, np.nan) for m, x in ((mask, logp), (mask[..., None], vector))]
    clean = token_directions(logp, vector, mask)
    assert_array_equal(token_directions(dirty[0], dirty[1], mask), clean)
    want = np.where(mask[..., None], (1 - np.exp(logp))[..., None] * vector, 0)
    assert_allclose(clean, want, rtol=1e-5, atol=1e-7)


def test_one_side_alone_and_no_range_are_no_coefficients():
    vector, advantage, mask = drawn()
    for row, options in (
        (abs(advantage), {}),
        (-abs(advantage), {}),
        (0 * advantage, {}),
        (advantage, {"low": 0.8, "high": 0.8}),
    ):
        got, asked = found(vector, row, mask, **options)
        assert_array_equal(got, np.ones(mask.shape))
        assert not asked


@pytest.mark.parametrize("options", [{"refinements": -1}, {"low": 1.3}, {"low": 0.0}])
def test_options_outside_their_ranges_are_refused(options):
    with pytest.raises(ValueError, match="must be at least 0, and 0 < low <= high"):
        found(*drawn(), **options)


def test_what_tells_the_sides_apart_counts_more_and_the_sides_move_apart():
    """On directions of one shared token and one that only rows of one side have."""
    rng, rows = np.random.default_rng(5), 40
    advantage = np.where(np.arange(rows) % 2, 1.0, -1.0)
    shared, own = np.array([3.0, 0, 0]), np.array([0, 1.5, 0])
    vector = np.stack([np.tile(shared, (rows, 1)), advantage[:, None] * own], 1)
    vector = vector + 0.3 * rng.normal(size=(rows, 2, 3))
    mask = np.ones((rows, 2), bool)
    got, _ = found(vector, advantage, mask)
    assert (got[advantage > 0, 1] > got[advantage > 0, 0]).mean() > 0.95

    def sides(weight):
        plus, minus = (
            np.average(vector[side].reshape(-1, 3), axis=0, weights=weight[side].ravel())
            for side in (advantage > 0, advantage < 0)
        )
        norms = np.linalg.norm(plus) * np.linalg.norm(minus)
        return plus @ minus / norms, np.linalg.norm(plus - minus)

    (cosine, apart), (cosine_before, apart_before) = sides(got), sides(np.ones(mask.shape))
    assert cosine < cosine_before
    assert apart > apart_before
