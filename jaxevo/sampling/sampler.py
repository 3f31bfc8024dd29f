"""The sampler: answers to prompts, from any parameter set of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.base import joined
from jaxevo.models import decoder
from jaxevo.sampling.conversations import Conversations
from jaxevo.sampling.drawing import Ends
from jaxevo.sampling.drawing import Sampling as Sampling
from jaxevo.sampling.wave import Call, Wave
from jaxevo.types import Array, Params, Samples


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A decoder with a tokenizer's stops, ready to draw from any parameter set of its shape.

    prompt_slots: longest prompt; a longer one is refused. cache_bytes: most bytes of keys and
    values in use on each device that rows are spread over, beyond which rows wait (one block is
    always taken); when rows move, the old and the new arrangement stand side by side for a moment.
    """

    config: decoder.DecoderConfig
    eos_ids: tuple[int, ...]
    prompt_slots: int
    stop_table: Callable[[tuple[str, ...]], np.ndarray]
    cache_bytes: int = 2**31

    def __call__(
        self,
        params: Params,
        prompts: Sequence[np.ndarray],
        *,
        key: Array,
        uids: Sequence[int],
        samples: int,
        new_tokens: int,
        limit_N: Array | None = None,
        sampling: Sampling | Sequence[Sampling],
        ended: Callable[[Samples, int], None] | None = None,
        kept: Conversations | None = None,
        keep: bool = False,
    ) -> Samples:
        """Draws `samples` answers per prompt; row n = prompt * samples + sample. Numpy out.

        All randomness of row n comes from the run's key and `uids[n]`.

        Args:
          params: weights of the decoder.
          prompts: token ids, 1 to `prompt_slots` of each.
          key: of the run.
          uids: names of the N rows.
          samples: answers to each prompt.
          new_tokens: most tokens of any answer; a program is made for it.
          limit_N: most tokens of each answer; None for `new_tokens`.
          sampling: for all rows, or one for each, with the same stop strings.
          ended: called once for each row n that has ended, while others go on, with samples whose
            row n is complete.
          kept: prompts that these weights have read before, of `conversations`.
          keep: whether later prompts may begin as these do, and these are kept, too.

        Raises:
          ValueError: an empty prompt, one longer than `prompt_slots`, or unlike stop strings.
        """
        lengths = [len(p) for p in prompts]
        if min(lengths) == 0 or max(lengths) > self.prompt_slots:
            raise ValueError(
                f"prompts have {min(lengths)} to {max(lengths)} tokens, but must have 1 to "
                f"{self.prompt_slots}. Raise the prompt limit or shorten the task."
            )
        N = len(prompts) * samples
        each = [sampling] * N if isinstance(sampling, Sampling) else list(sampling)
        if len({s.stop for s in each}) > 1:
            raise ValueError("rows of one call have unlike stop strings. Sample them one by one.")
        stop = each[0].stop
        eos_V = np.zeros(self.config.vocab_size, bool)
        eos_V[list(self.eos_ids)] = True
        most_N = np.minimum(new_tokens if limit_N is None else np.asarray(limit_N), new_tokens)
        call = Call(
            config=self.config,
            params=params,
            prompts=[np.ascontiguousarray(ids, np.int32) for ids in prompts],
            key=key,
            uids=uids,
            samples=samples,
            new_tokens=new_tokens,
            limit_N=np.broadcast_to(most_N, N).astype(np.int32),
            sampling=each,
            ends=jax.device_put(Ends(eos_V, self.stop_table(stop) if stop else None)),
            prompt_slots=self.prompt_slots,
            cache_bytes=self.cache_bytes if kept is None else self.cache_bytes // 2,
            ended=ended,
            kept=kept,
            keep=keep,
        )
        return Wave(call).run()

    def conversations(self) -> Conversations:
        """Room for prompts of one set of weights that later ones begin as, none kept yet.

        They take up to half of `cache_bytes`.
        """
        return Conversations(self.config, self.cache_bytes // 2)


def publish(
    params: Params, *, dtype: Any = None, place: Callable[[Params], Params] | None = None
) -> Params:
    """The sampler's own copy of some weights, cast to `dtype` when given; never an alias.

    Layers come apart, so that decoding reads each weight where it lies. place: puts the copy where
    the sampler reads it; None leaves it beside the weights.
    """
    rest, layers = dict(params), params.get("layers")
    apart = {}
    if isinstance(layers, dict):
        del rest["layers"]
        split = decoder.split_layers(layers)  # slices are copies already
        apart["layers"] = jax.tree.map(lambda x: jnp.asarray(x, dtype=dtype), split)
    copy = {**jax.tree.map(lambda x: jnp.array(x, dtype=dtype, copy=True), rest), **apart}
    return copy if place is None else place(copy)


class Published:
    """`publish` of sets over a base: each copies what is its own; of the base there is one copy.

    Adapters stay apart from the weights that they adapt.
    """

    def __init__(self, base: Params, publish: Callable[[Params], Params]):
        self._base, self._publish = base, publish
        self._copy: Params | None = None  # made when first asked for

    def __call__(self, own: Params) -> Params:
        if self._copy is None:
            self._copy = self._publish(self._base)
        return joined(self._copy, self._publish(own))
