"""Where weights lie on a mesh, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxevo.models.lora import weight_axes
from jaxevo.optimizers import adamw
from jaxevo.parallel.heads import embedded
from jaxevo.parallel.mesh import Placement, make_mesh


def test_a_mesh_that_does_not_divide_the_devices_is_refused():
    with pytest.raises(ValueError, match="2 devices cannot be cut into --fsdp 3 x --tensor 1"):
        make_mesh(jax.devices()[:2], fsdp=3)
    with pytest.raises(ValueError, match="must be at least 1"):
        make_mesh(jax.devices()[:2], tensor=0)


def test_rows_that_the_devices_do_not_divide_are_refused():
    placement = Placement(make_mesh(jax.devices()[:2]))
    with pytest.raises(ValueError, match="3 rows cannot be spread over 2 devices"):
        placement.batch({"x": np.zeros((1, 3, 5))})


def specs(tree):
    return jax.tree.map(lambda x: x.sharding.spec, tree)


def test_optimizers_lie_as_their_weights_do(tiny_model):
    placement = Placement(make_mesh(jax.devices()[:2], fsdp=2), weight_axes(tiny_model.config))
    params = placement.put(tiny_model.params)
    assert params["layers"]["q"].sharding.spec == PartitionSpec(None, "fsdp")
    assert params["layers"]["o"].sharding.spec == PartitionSpec(None, None, "fsdp")
    state = placement.put(adamw(learning_rate=1e-3).init(params))
    found = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, dict))
    moments = [x for x in found if isinstance(x, dict)]
    assert len(moments) == 2
    for moment in moments:
        assert specs(moment) == specs(params)


def test_weights_are_read_to_where_they_belong(tiny_model):
    placement = Placement(make_mesh(jax.devices()[:2], fsdp=2), weight_axes(tiny_model.config))
    weight = np.asarray(tiny_model.params["layers"]["q"])
    put = placement.put_weight("layers/q", weight)
    assert put.sharding == placement.put(tiny_model.params)["layers"]["q"].sharding
    np.testing.assert_array_equal(put, weight)


def test_an_embedding_whose_vocabulary_is_split_finds_the_same_rows():
    table = jax.random.normal(jax.random.key(0), (6, 4))
    ids = jnp.array([[0, 5, 3], [2, -4, 99]])
    placement = Placement(make_mesh(jax.devices()[:2], tensor=2), (("embed", ("vocab", "width")),))

    def value(table):
        return jnp.sum(jnp.sin(embedded(table, ids)) * jnp.arange(4.0))

    want = jax.value_and_grad(value)(table)
    with placement.scope():
        got = jax.jit(jax.value_and_grad(value))(placement.put({"embed": table})["embed"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)
