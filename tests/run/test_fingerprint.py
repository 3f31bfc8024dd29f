import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxevo.run.fingerprint import MOST, PRIME, fingerprint


def by_hand(*arrays):
    total = 0
    for x in arrays:
        flat = np.asarray(x).reshape(-1)
        bits = flat[:: -(-flat.size // MOST)].view(np.uint32).astype(object)
        total = total * PRIME + sum(int(b) * (2 * i + 1) for i, b in enumerate(bits))
    return f"{total % 2**32:08x}"


def test_it_is_the_sum_of_bits_by_place():
    random = np.random.default_rng(0)
    small, large = random.normal(size=(3, 5)), random.normal(size=(3, MOST))
    tree = {"a": jnp.float32(small), "b": jnp.float32(large)}
    assert fingerprint(tree) == by_hand(tree["a"], tree["b"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_one_bit_or_two_places_swapped_change_it(dtype):
    x = np.array(jax.random.normal(jax.random.key(0), (8, 8)).astype(dtype))
    own = fingerprint({"x": x})
    swapped = x.copy()
    swapped[0, 0], swapped[0, 1] = x[0, 1], x[0, 0]
    assert fingerprint({"x": swapped}) != own
    flipped = x.copy()
    flipped.view(np.uint8)[0, 0] ^= 1
    assert fingerprint({"x": flipped}) != own
    assert fingerprint({"x": x.copy()}) == own


def test_it_is_the_same_on_two_devices():
    x = jax.random.normal(jax.random.key(0), (8, 8))
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("d")))
    assert fingerprint({"x": x}) == fingerprint({"x": spread})
