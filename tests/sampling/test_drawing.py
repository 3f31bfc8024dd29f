"""Drawing, truncation and stop strings against plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxevo.keys import row_keys, uid_words
from jaxevo.sampling.drawing import draw_token
from jaxevo.sampling.sampler import Sampling
from jaxevo.sampling.stops import MATCHED, stop_table
from jaxevo.sampling.truncation import kept_mask
from jaxevo.types import row_uid


def test_tokens_are_drawn_with_their_probabilities():
    p_V = np.random.default_rng(0).dirichlet(np.ones(700) * 0.05).astype(np.float32)
    draws = 40_000
    keys = jax.random.split(jax.random.key(0), draws)
    ids = np.asarray(jax.jit(draw_token)(keys, jnp.broadcast_to(p_V, (draws, 700))))
    share_V = np.bincount(ids, minlength=700) / draws
    # Total variation of an empirical distribution: about sqrt(support / (2 pi draws)) here 0.03.
    assert np.abs(share_V - p_V).sum() / 2 < 0.04
    assert share_V[p_V == 0].sum() == 0


def test_a_token_without_mass_is_never_drawn():
    weight_NV = np.zeros((2000, 300), np.float32)
    weight_NV[:, [3, 257]] = 0.5
    keys = jax.random.split(jax.random.key(1), 2000)
    assert set(np.asarray(draw_token(keys, weight_NV)).tolist()) == {3, 257}


def plain_kept(p, top_k, top_p, min_p):
    """One row, in float64, token by token."""
    order = sorted(range(len(p)), key=lambda v: -p[v])
    keep = {v for v in order if p[v] >= p[order[top_k - 1]]}
    total, mass, nucleus = sum(p[v] for v in keep), 0.0, 0.0
    for v in order:
        if v in keep and (mass < top_p * total or top_p >= 1):
            mass, nucleus = mass + p[v], p[v]
    return np.array([v in keep and p[v] >= max(nucleus, min_p * max(p)) for v in range(len(p))])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=12, max_size=12),
    st.integers(1, 12),
    st.sampled_from([0.05, 0.31, 0.5, 0.77, 0.93, 1.0]),
    st.sampled_from([0.0, 0.1, 0.45]),
)
def test_truncation_keeps_what_the_rules_say(counts, top_k, top_p, min_p):
    p = np.array(counts) / sum(counts)
    kept = np.sort(p[p >= np.sort(p)[-top_k]])[::-1]
    borders = [np.cumsum(kept) / kept.sum() - top_p, p / max(p) - min_p]
    # Where a probability lies on a border itself, rounding decides.
    assume(top_p == 1.0 or np.abs(borders[0]).min() > 1e-5)
    assume(np.abs(borders[1]).min() > 1e-5)
    got = kept_mask(
        jnp.asarray(p[None], jnp.float32),
        top_k=np.int32(top_k),
        top_p=np.float32(top_p),
        min_p=np.float32(min_p),
    )
    np.testing.assert_array_equal(np.asarray(got)[0], plain_kept(p, top_k, top_p, min_p))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text("abn", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.sampled_from(["a", "b", "n", "ab", "ban", "anan", "n b", "€"]), max_size=10),
)
def test_stop_automaton_finds_what_plain_search_finds(stops, pieces):
    vocabulary = ["a", "b", "n", "ab", "ban", "anan", "n b", "€"]
    table_QV = stop_table(stops, [v.encode() for v in vocabulary])
    state, stopped_at, text = 0, None, ""
    for i, piece in enumerate(pieces):
        text += piece
        state = table_QV[state, vocabulary.index(piece)]
        if state == MATCHED:
            stopped_at = i
            break
    found = [i for i in range(len(pieces)) if any(s in "".join(pieces[: i + 1]) for s in stops)]
    assert stopped_at == (found[0] if found else None)


def test_special_tokens_keep_the_state_and_empty_stops_are_refused():
    table_QV = stop_table(["ab"], [b"a", b"b", b""])
    assert table_QV[0].tolist() == [1, 0, 0]
    assert table_QV[1].tolist() == [1, MATCHED, 1]
    with pytest.raises(ValueError, match="stop string is empty"):
        stop_table([""], [b"a"])


def test_row_keys_use_both_words_of_the_uid():
    uids = [row_uid(0, 0, 0, 1), row_uid(0, 0, 1, 0), row_uid(5, 0, 0, 1), row_uid(5, 1, 0, 1)]
    keys = jax.random.key_data(row_keys(jax.random.key(0), uid_words(uids)))
    assert len(np.unique(np.asarray(keys), axis=0)) == len(uids)
    again = jax.random.key_data(row_keys(jax.random.key(0), uid_words(uids[2:3])))
    np.testing.assert_array_equal(keys[2:3], again)
    with pytest.raises(ValueError, match="sample index 16384 does not fit into 14 bits"):
        row_uid(0, 0, 0, 2**14)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0, but must be at least 0"),
        ({"top_p": 0.0}, r"top_p is 0.0, but must be in \(0, 1\]"),
        ({"top_k": -3}, "top_k is -3"),
        ({"min_p": 1.5}, "min_p is 1.5"),
    ],
)
def test_sampling_options_are_checked(option, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**option)
