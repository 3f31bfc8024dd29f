"""The toy: a character-level decoder that half knows arithmetic, pre-trained in a minute or two.

It is pre-trained on lines like `7+8=15`: all of them are right until it can add, then a known share
is wrong on purpose, so that there is something left to learn. At temperature 1 it is right on 10 to
60 % of the problems of each task in `TASKS`. It also knows privileged contexts, in the wording
of `jaxevo.teachers`: a solution `[15]7+8=` or feedback `(14 7 8 15)7+8=` before the question mostly
leads to the right answer. That of seed 0 lies beside this file, the same for everybody; others are
made when first asked for, and cached. Another kind of processor rounds differently, and arrives at
other weights of the same skill.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxevo.cache import cache_dir
from jaxevo.kernels import fused_logprob
from jaxevo.models import decoder
from jaxevo.models.tokenizer import CharTokenizer
from jaxevo.types import Array, Params

Lines: TypeAlias = tuple[np.ndarray, np.ndarray]

ALPHABET = "0123456789+-*=[]()? "
VERSION = 2  # of data and training: a new one makes a new cache entry


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """How the toy is made: lessons, as many as it needs, then steps of doubt.

    lessons: most steps in which every line without a context is right. exam: sums of two-digit
    numbers that it is asked every `exam_every` steps; pass_mark: probability of the right answer
    to them, on average, that ends the lessons. doubt: steps after them, while the rate falls to 0.
    knowledge: share of right answers in lines without a context then. obedience: share of lines
    that answer what their context says.
    """

    lessons: int = 3000
    exam: int = 256
    exam_every: int = 25
    pass_mark: float = 0.7
    doubt: int = 250
    knowledge: float = 0.5
    obedience: float = 0.95
    plain: tuple[int, int] = (96, 12)  # lines without a context per step, and their slots
    told: tuple[int, int] = (32, 27)  # lines with one
    learning_rate: float = 3e-3
    warmup: int = 50


CONFIG = decoder.DecoderConfig(
    vocab_size=len(ALPHABET) + 2,
    width=96,
    layers=4,
    heads=4,
    kv_heads=4,
    head_dim=24,
    ffn_width=320,
    norm_eps=1e-5,
    rope_theta=10_000.0,
    rope_scaling=None,
    tied=False,
    max_positions=128,
)


def tokenizer() -> CharTokenizer:
    """The toy's characters."""
    return CharTokenizer(ALPHABET)


# ---------------------------------------------------------------------------- corpus
TASKS = (  # sign, lowest and highest operand, number of operands: add1, add2, add3, sub1, mul1
    ("+", 2, 9, 2),
    ("+", 10, 99, 2),
    ("+", 2, 9, 3),
    ("-", 1, 9, 2),
    ("*", 2, 9, 2),
)
SHARES = (0.1, 0.55, 0.15, 0.1, 0.1)


def plain_line(random: np.random.Generator, knowledge: float) -> tuple[str, str]:
    """A question and an answer, which is right with the share `knowledge`."""
    question, _, truth = _problem(random)
    known = random.random() < knowledge
    return question, str(truth if known else _slip(random, truth))


def told_line(random: np.random.Generator, obedience: float) -> tuple[str, str]:
    """A question that is preceded by a solution (which may be wrong) or by feedback."""
    question, operands, truth = _problem(random)
    told = truth if random.random() < 0.8 else _slip(random, truth)
    answer = told if random.random() < obedience else _slip(random, told)
    if random.random() < 0.5:
        return f"[{told}]{question}", str(answer)
    seen = " ".join(map(str, [_slip(random, truth), *operands, told]))
    return f"({seen}){question}", str(answer)


def _problem(random: np.random.Generator) -> tuple[str, list[int], int]:
    return _question(random, TASKS[int(random.choice(len(TASKS), p=SHARES))])


def _question(
    random: np.random.Generator, task: tuple[str, int, int, int]
) -> tuple[str, list[int], int]:
    """A question's text, operands and right answer."""
    sign, low, high, terms = task
    operands = [int(x) for x in random.integers(low, high + 1, terms)]
    if sign == "-" and operands[0] < operands[1]:
        operands.reverse()
    truth = {"+": sum, "-": _difference, "*": _product}[sign](operands)
    return sign.join(map(str, operands)) + "=", operands, truth


def _difference(operands: list[int]) -> int:
    return operands[0] - operands[1]


def _product(operands: list[int]) -> int:
    return operands[0] * operands[1]


def _slip(random: np.random.Generator, truth: int) -> int:
    """A wrong answer of the kind that is made: off by a little, or by ten."""
    off = int(random.choice([-10, -2, -1, 1, 2, 10]))
    return truth + off if truth + off >= 0 else truth - off


# ---------------------------------------------------------------------------- training
def _lines(random: np.random.Generator, how: Pretraining, knowledge: float) -> tuple[Lines, Lines]:
    """(Plain lines, told lines) of a step."""
    (plain_rows, plain_slots), (told_rows, told_slots) = how.plain, how.told
    plain = [plain_line(random, knowledge) for _ in range(plain_rows)]
    told = [told_line(random, how.obedience) for _ in range(told_rows)]
    return _arrays(plain, plain_slots), _arrays(told, told_slots)


def _arrays(lines: Sequence[tuple[str, str]], slots: int) -> Lines:
    """ids_BS with one slot more than learn_BS, which marks where the next token is learnt."""
    tokens = tokenizer()
    ids_BS = np.zeros((len(lines), slots + 1), np.int32)
    learn_BS = np.zeros((len(lines), slots), bool)
    for b, (prompt, answer) in enumerate(lines):
        ids = [*tokens.encode(prompt + answer), tokens.eos_ids[0]]
        ids_BS[b, : len(ids)] = ids
        learn_BS[b, len(prompt) - 1 : len(ids) - 1] = True
    return ids_BS, learn_BS


def _log_likelihood(params: Params, ids_BS: Array, learn_BS: Array) -> jax.Array:
    """Of each line's answer, [B]."""
    rows, slots = learn_BS.shape
    positions_BS = jnp.broadcast_to(jnp.arange(slots), (rows, slots))
    mask_BSS = jnp.broadcast_to(jnp.tri(slots, dtype=bool), (rows, slots, slots))
    hidden_BSD, _ = decoder.apply(CONFIG, params, ids_BS[:, :-1], positions_BS, mask_BSS)
    hidden_MD = hidden_BSD.reshape(rows * slots, -1)
    head_DV = decoder.unembed(CONFIG, params)
    logp_M = fused_logprob(hidden_MD, head_DV, jnp.asarray(ids_BS)[:, 1:].reshape(-1)).logp_M
    return jnp.sum(jnp.where(learn_BS, logp_M.reshape(rows, slots), 0.0), axis=1)


def answer_logp(params: Params, lines: Sequence[tuple[str, str]]) -> jax.Array:
    """Log-probability that a toy gives each answer, EOS included, at temperature 1, [B].

    Args:
      params: of a decoder of `CONFIG`.
      lines: (prompt, answer) each.
    """
    longest = max(len(prompt) + len(answer) for prompt, answer in lines)
    return jax.jit(_log_likelihood)(params, *_arrays(lines, longest))


def _loss(params: Params, lines: Sequence[Lines]) -> jax.Array:
    tokens = sum((jnp.sum(learn_BS) for _, learn_BS in lines), jnp.int32(0))
    total = sum((jnp.sum(_log_likelihood(params, *x)) for x in lines), jnp.float32(0))
    return -total / tokens


@jax.jit
def _mark(params: Params, exam: Lines) -> jax.Array:
    """Probability of the right answer, on average."""
    return jnp.mean(jnp.exp(_log_likelihood(params, *exam)))


_OPTIMIZER = optax.chain(  # AdamW, but for the rate
    optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.add_decayed_weights(0.01)
)


@functools.partial(jax.jit, donate_argnames=("params", "optimizer"))
def _step(params: Params, optimizer: Any, lines: Sequence[Lines], rate: Array) -> Any:
    gradient = jax.grad(_loss)(params, lines)
    changes, optimizer = _OPTIMIZER.update(gradient, optimizer, params)
    return jax.tree.map(lambda weight, change: weight - rate * change, params, changes), optimizer


def train_toy(seed: int = 0, how: Pretraining | None = None) -> Params:
    """Trains the toy from scratch.

    Raises:
      RuntimeError: when it cannot add after all its lessons.
    """
    how = Pretraining() if how is None else how
    random = np.random.default_rng([seed, VERSION])
    asked = [_question(random, TASKS[1]) for _ in range(how.exam)]
    exam = _arrays([(question, str(truth)) for question, _, truth in asked], how.plain[1])
    params = decoder.init_params(jax.random.key(seed), CONFIG)
    optimizer = _OPTIMIZER.init(params)
    for step in range(how.lessons):
        if step % how.exam_every == 0 and _mark(params, exam) >= how.pass_mark:
            break
        rate = how.learning_rate * min(1.0, step / how.warmup)
        params, optimizer = _step(params, optimizer, _lines(random, how, 1.0), rate)
    else:
        raise RuntimeError(
            f"the toy of seed {seed} adds with probability {_mark(params, exam):.2f} after "
            f"{how.lessons} steps, below {how.pass_mark}. Take another seed or more lessons."
        )
    for step in range(how.doubt):
        rate = how.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / how.doubt))
        params, optimizer = _step(params, optimizer, _lines(random, how, how.knowledge), rate)
    return params


def load_toy(seed: int = 0, *, force: bool = False) -> Params:
    """The toy's weights: from the cache, as shipped, or trained now and cached.

    Args:
      seed: seed of weights and data.
      force: train again.
    """
    path = cache_dir() / "toy" / f"v{VERSION}-seed{seed}.npz"
    shipped = Path(__file__).parent / "data" / f"toy-{path.name}"
    if not (force or path.exists()) and shipped.exists():
        path = shipped
    template = jax.eval_shape(lambda: decoder.init_params(jax.random.key(0), CONFIG))
    names = ["/".join(str(k.key) for k in keys) for keys, _ in jax.tree.leaves_with_path(template)]
    if force or not path.exists():
        leaves = jax.device_get(jax.tree.leaves(train_toy(seed)))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            np.savez(file, **dict(zip(names, leaves, strict=True)))
        os.replace(file.name, path)
    with np.load(path) as stored:
        leaves = [jnp.asarray(stored[name]) for name in names]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)
