"""The lab: the instruments with which a recipe's `collect` gathers experience.

`collect` is ordinary host Python. Everything random in it hangs on the run's key and on where a
row stands (round, wave, prompt, sample), so that the same round gives the same rows after a
resume, in another batch or on more hosts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeAlias

import jax
import numpy as np

from jaxevo.base import over
from jaxevo.collect.pack import Shapes, fitting, stack
from jaxevo.collect.table import prepare, tallied
from jaxevo.tasks.mixture import PART
from jaxevo.types import (
    Array,
    Batch,
    Bound,
    Objective,
    Params,
    Row,
    Samples,
    Segment,
    Source,
    Task,
    TaskSource,
    Verdict,
    row_uid,
)

Judge: TypeAlias = Callable[[Row], Mapping[str, Verdict]]

VERIFIERS = 4  # threads on which `attempt` verifies


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """Run-wide sizes of a round: P prompts, G samples each, up to `new_tokens` tokens.

    sampling: how tokens are drawn (a `sampling.Sampling`).
    """

    prompts: int
    samples: int
    new_tokens: int
    sampling: Any


@dataclasses.dataclass(frozen=True)
class Learner:
    """What scoring and updates need beside a recipe: the policy's forward and declared shapes.

    forward: `(params, packed, answers, temperature, *, read) -> {stream: Stream}`, compared by
    value. shapes: objective name -> Shapes. place: puts a micro-batch stack onto the devices. pin:
    keeps weights and optimizer states where they lie, in programs; None on one device. base: what
    parameter sets lie over (`jaxevo.base`), None where each is whole. fetch: arrays of programs as
    numpy ones. scope: in which programs over weights and batches are called.
    """

    forward: Bound
    shapes: Mapping[str, Shapes]
    place: Any = jax.device_put
    pin: Callable[[Any], Any] | None = None
    base: Params | None = None
    fetch: Callable[[Any], Any] = jax.device_get
    scope: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


@functools.partial(jax.jit, static_argnames=("fn", "forward"))
def _mapped(
    sets: Mapping[str, Params],
    batch: Batch,
    base: Params | None,
    operands: tuple,
    *,
    fn: Bound,
    forward: Bound,
) -> Any:
    """fn on the only micro-batch of a stack."""
    return fn(sets, jax.tree.map(lambda x_K: x_K[0], batch), over(base, forward), *operands)


def _pieces(whole: range, size: int) -> list[range]:
    return [whole[start : start + size] for start in whole[::size]]


class Lab:
    """One round's instruments. Made anew each round by the run loop.

    Attributes:
      config: the run's sizes. position: the next problem's index, written back by the run loop.
      sampled: every row sampled in this round by uid, in its latest form, trained or not.
      seconds: wall-clock spent sampling, and verifying what was not verified meanwhile.
      drawn: set once a wave of answers has been drawn.
      key: the run's key, from which rows' keys are made (`jaxevo.keys`).
    """

    def __init__(
        self,
        *,
        config: RolloutConfig,
        source: TaskSource,
        tokenizer: Any,
        sample_fn: Callable[..., Samples],
        key: Array,
        finish_names: Sequence[str],
        sets: Mapping[str, Params],
        publish: Callable[[Params], Params],
        conversations: Callable[[], Any],
        round_index: int,
        position: int,
        seed: int,
        weights_version: int = 0,
        coin: Callable[[int, int], Verdict] | None = None,
        learner: Learner | None = None,
        share: Callable[[Judge, Sequence[Row]], list[Mapping[str, Verdict]]] | None = None,
    ):
        self.config, self.source, self.tokenizer = config, source, tokenizer
        self.round_index, self.position, self.seed = round_index, position, seed
        self.sampled: dict[int, Row] = {}
        self.seconds = {"sample": 0.0, "verify": 0.0}
        self.drawn = threading.Event()
        self._sample_fn, self.key, self._finish_names = sample_fn, key, finish_names
        self._sets, self._publish, self._learner = sets, publish, learner
        self._weights_version, self._coin, self._share = weights_version, coin, share
        self._published: dict[str, Any] = {}
        self._conversations, self._kept = conversations, dict[str, Any]()
        self._wave = 0

    def tasks(self, count: int | None = None) -> list[Task]:
        """The next `count` problems (default: the run's P) of the task source."""
        count = self.config.prompts if count is None else count
        start, self.position = self.position, self.position + count
        return [self.source.train(index) for index in range(start, start + count)]

    def generator(self, name: str) -> np.random.Generator:
        """A numpy generator for host-side choices, the same whenever this round is run."""
        words = [self.seed, self.round_index, *name.encode()]
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))

    def sample(
        self,
        tasks: Sequence[Task],
        *,
        samples: int | None = None,
        params: str = "policy",
        role: str = "policy",
        new_tokens: int | None = None,
        stop: tuple[str, ...] | None = None,
        temperature: float | None = None,
        keep: bool = False,
    ) -> list[Row]:
        """Samples every task's prompt `samples` times; rows in order.

        Args:
          tasks: whose prompts are rendered and answered.
          samples: answers per prompt, None for the run's G.
          params: the parameter set that answers.
          role: what the rows are called.
          new_tokens: longest answer, None for the run's limit, which it cannot exceed.
          stop: strings that end an answer, None for the run's.
          temperature: None for the run's; 0 is greedy, for rows that are not learnt.
          keep: whether the conversations go on, so that what was read is not read again.
        """
        samples = self.config.samples if samples is None else samples
        rows = self.asked(tasks, samples=samples, role=role)
        if temperature is not None:
            rows = [dataclasses.replace(row, temperature=temperature) for row in rows]
        return self._continue(rows, samples, params, new_tokens, stop, keep=keep)

    def attempt(
        self,
        tasks: Sequence[Task],
        *,
        samples: int | None = None,
        params: str = "policy",
        role: str = "policy",
    ) -> list[Row]:
        """`verify(sample(tasks))`, each row verified on a thread while others are being sampled."""
        samples = self.config.samples if samples is None else samples
        rows = self.asked(tasks, samples=samples, role=role)
        if self._share is not None:
            return self.verify(self._continue(rows, samples, params, None, None, keep=False))
        judged: dict[int, Future[Row]] = {}
        with ThreadPoolExecutor(VERIFIERS) as pool:

            def ended(out: Samples, n: int) -> None:
                judged[n] = pool.submit(self._judge, self._grow_row(rows[n], out, n))

            self._continue(rows, samples, params, None, None, keep=False, ended=ended)
            with self._timed("verify"):
                return self.record([judged[n].result() for n in range(len(rows))])

    def asked(self, tasks: Sequence[Task], *, samples: int = 1, role: str = "policy") -> list[Row]:
        """Rows of the next wave that hold their prompts alone, `samples` of each task, in order."""
        wave, temperature, rows = self._next_wave(), self.config.sampling.temperature, []
        for p, task in enumerate(tasks):
            prompt = Segment(np.array(self.tokenizer.render(task.messages), np.int32), "prompt")
            group = row_uid(self.round_index, wave, p, 0)
            for g in range(samples):
                uid = row_uid(self.round_index, wave, p, g)
                rows.append(Row(uid, task, group, (prompt,), role=role, temperature=temperature))
        return rows

    def fork(self, rows: Sequence[Row], copies: int = 1) -> list[Row]:
        """Rows that go on from these with randomness of their own: `copies` of each, in order.

        A row that is sampled on after an edit, or several times from one point, must be forked
        first: the key of a token is made from its row's uid and its position.
        """
        wave = self._next_wave()
        return [
            dataclasses.replace(row, uid=row_uid(self.round_index, wave, p, c), parent=row.uid)
            for p, row in enumerate(rows)
            for c in range(copies)
        ]

    def _next_wave(self) -> int:
        wave, self._wave = self._wave, self._wave + 1
        return wave

    def extend(
        self,
        rows: Sequence[Row],
        injected: Sequence[tuple[Source, Sequence[int]]],
        *,
        params: str = "policy",
        new_tokens: int | Sequence[int] | None = None,
        stop: tuple[str, ...] | None = None,
        keep: bool = True,
    ) -> list[Row]:
        """Adds tokens of another source to each row, then lets the policy go on in the same turn.

        Args:
          rows: rows as sampled before.
          injected: per row the source and ids of what comes in between; no ids adds nothing.
          params: the parameter set that continues.
          new_tokens, stop, keep: as in `sample`; a limit of new tokens may also be one per row.
        """
        longer = []
        for row, (source, ids) in zip(rows, injected, strict=True):
            new = (Segment(np.asarray(ids, np.int32), source),) if len(ids) else ()
            longer.append(dataclasses.replace(row, segments=row.segments + new))
        return self._continue(longer, 1, params, new_tokens, stop, keep=keep)

    def _continue(
        self,
        rows: Sequence[Row],
        samples: int,
        params: str,
        new_tokens: int | Sequence[int] | None,
        stop: tuple[str, ...] | None,
        *,
        keep: bool,
        ended: Callable[[Samples, int], None] | None = None,
    ) -> list[Row]:
        """The rows after another answer; `samples` rows in a row begin alike and are read once."""
        config = self.config
        sampling = config.sampling if stop is None else config.sampling.with_stop(stop)
        each = {row.temperature: sampling.at(row.temperature) for row in rows}
        asked = config.new_tokens if new_tokens is None else new_tokens
        limit_N = np.broadcast_to(np.minimum(asked, config.new_tokens), len(rows))
        with self._timed("sample"):
            weights = self._weights(params)
            if keep and params not in self._kept:
                self._kept[params] = self._conversations()
            out = self._sample_fn(
                weights,
                [np.concatenate([s.ids for s in row.segments]) for row in rows[::samples]],
                key=self.key,
                uids=[row.uid for row in rows],
                samples=samples,
                new_tokens=config.new_tokens,
                limit_N=limit_N.astype(np.int32),
                sampling=[each[row.temperature] for row in rows],
                ended=ended,
                kept=self._kept.get(params),
                keep=keep,
            )
        self.drawn.set()
        return self.record([self._grow_row(row, out, n) for n, row in enumerate(rows)])

    def _weights(self, name: str) -> Any:
        if name not in self._sets:
            raise ValueError(
                f"sampling from parameter set {name!r}, but the recipe has {sorted(self._sets)}. "
                f"Add ParamSet({name!r})."
            )
        if name not in self._published:
            self._published[name] = self._publish(self._sets[name])
        return self._published[name]

    def close(self) -> None:
        """Frees the sampler's copies of weights, and what they have read; a later `sample` would
        publish them anew."""
        self._published.clear()
        self._kept.clear()

    def _grow_row(self, row: Row, out: Samples, n: int) -> Row:
        length = int(out.length_N[n])
        cut = self.config.sampling.truncates
        segment = Segment(
            ids=np.asarray(out.ids_NR[n, :length]),
            source="policy",
            logp=np.asarray(out.logp_NR[n, :length]),
            log_kept=np.asarray(out.log_kept_NR[n, :length]) if cut else None,
            entropy=np.asarray(out.entropy_NR[n, :length]),
            weights_version=self._weights_version,
        )
        finish = self._finish_names[int(out.finish_N[n])]
        return dataclasses.replace(
            row, segments=(*row.segments, segment), info={**row.info, "finish": finish}
        )

    @property
    def rollouts(self) -> int:
        """Rows of this round that have sampled tokens, forks counted once each."""
        return sum(row.sampled_tokens > 0 for row in self.sampled.values())

    def record(self, rows: Sequence[Row]) -> list[Row]:
        """Logs the latest form of rows (their rewards, say), and returns them."""
        self.sampled |= {row.uid: row for row in rows}
        return list(rows)

    def map(
        self,
        fn: Bound,
        rows: Sequence[Row],
        *,
        like: Objective,
        by: Literal["rows", "groups"] = "rows",
        operands: tuple[Any, ...] = (),
    ) -> Any:
        """`fn(sets, batch, forward, *operands)` over rows, as one jitted pure function.

        Re-scoring, values, embeddings and per-question gradients are all this. `sets` are all
        parameter sets as they are trained, `batch` has its layouts and advantages, `forward` is
        the policy's: `forward(params, batch.layouts[...], batch.answers, batch.temperature,
        read=...)`.

        Args:
          fn: by rows it returns a tree of `[N, ...]` arrays, N rows of a micro-batch; by groups
            it sees one whole group at a time (and padding rows) and returns any tree of arrays.
          rows: of any number.
          like: the objective under whose shapes, sources, views and advantage the rows are
            read.
          by: whole micro-batches, or group by group in the order of first appearance.
          operands: trees of arrays that are the same for all calls.

        Returns:
          the tree of fn with a leading axis of rows or groups, as numpy arrays.
        """
        if self._learner is None:
            raise ValueError("this lab samples only; map needs the lab of a training run.")
        learner, shapes = self._learner, self._learner.shapes[like.name]
        table = prepare(rows, like, shapes.answer, self.tokenizer)
        if by == "groups":
            shapes = shapes.of_one_group()
            group_N = np.asarray(table.batch.group_N)
            cuts = [np.flatnonzero(group_N == g).tolist() for g in range(group_N.max() + 1)]
            batches = ((cut, stack(table, cut, shapes)) for cut in cuts)
        else:
            shapes = dataclasses.replace(shapes, micro=1)
            pieces = _pieces(range(len(rows)), shapes.rows)
            batches = (pair for cut in pieces for pair in fitting(table, list(cut), shapes))
        run = functools.partial(_mapped, fn=fn, forward=learner.forward)
        parts, counts = [], []
        for cut, batch in batches:
            with learner.scope():
                out = run(self._sets, learner.place(batch), learner.base, operands)
            parts.append(learner.fetch(out))
            counts.append(len(cut))
        if by == "groups":
            return jax.tree.map(lambda *xs: np.stack(xs), *parts)
        return jax.tree.map(
            lambda *xs: np.concatenate([x[:n] for x, n in zip(xs, counts, strict=True)]), *parts
        )

    def verify(self, rows: Sequence[Row]) -> list[Row]:
        """Scores each row's answer text with every verifier of the task source.

        The first verifier gives the reward (part `correct`) and the feedback text, those that the
        source weighs give parts of their own names; `row.info["verdicts"]` has each `Verdict`.
        Under the control arm the reward is a coin's instead. Of a mixture, `info["tally"]` has the
        first verifier's score under the name of the problem's part.
        """
        with self._timed("verify"):
            share = self._share or (lambda judge, rows: [judge(row) for row in rows])
            said = share(self._verdicts, rows)
            return self.record([self._rewarded(r, v) for r, v in zip(rows, said, strict=True)])

    def _judge(self, row: Row) -> Row:
        return self._rewarded(row, self._verdicts(row))

    def _verdicts(self, row: Row) -> dict[str, Verdict]:
        text = self.answer_text(row)
        return {n: verify(row.task, text) for n, verify in self.source.verifiers.items()}

    def _rewarded(self, row: Row, verdicts: Mapping[str, Verdict]) -> Row:
        first = next(iter(verdicts.values()))
        weighed = {n: w * verdicts[n].score for n, w in self.source.weights.items()}
        rewards, feedback = {"correct": first.score, **weighed}, first.feedback
        if self._coin is not None:  # the control arm must not hear the truth in words either
            coin = self._coin(self.seed, row.uid)
            rewards, feedback = {"coin": coin.score}, coin.feedback
        info = {**row.info, "verdicts": verdicts}
        judged = dataclasses.replace(row, rewards=rewards, feedback=feedback, info=info)
        if not self.source.parts:
            return judged
        return tallied(judged, **{row.task.info[PART]: first.score})

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - start

    def answer_text(self, row: Row) -> str:
        """What a verifier reads: the policy's own tokens of the answer, special tokens left out."""
        ids = [int(i) for s in row.answer if s.source == "policy" for i in s.ids]
        return self.tokenizer.text(ids)
