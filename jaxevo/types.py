"""The nouns of jaxevo, and what a recipe author may rely on.

A round of self-improvement (`jaxevo.step` shows it on one screen):

    experience = recipe.collect(lab, state, memory)          host, ordinary Python
    memory = recipe.grow(memory, experience)
    for objective in recipe.objectives that got rows:        no rows, no step
        batch     = tabulate(rows)                           [N, A] arrays, whole global batch
        advantage = objective.advantage(batch)               once, on the whole global batch
        for minibatch in minibatches(batch, objective):      one jitted, donated function:
            frozen views; current forward; credit; terms -> (numerator, denominator); update
    parameter sets follow each other

What a recipe author writes: `collect` in ordinary Python with the lab's instruments (sample,
extend, fork, verify, map), objectives made of bound functions, `grow` for what is remembered, and
`sizes` where a round is not P prompts x G single answers. `jaxevo new-recipe` writes a start.

Promises:
  * Masks come from sources, never from token values. Slots that the policy did not sample have
    mask 0, and whatever stands there changes neither value nor gradient.
  * `[N, A]` arrays are left-aligned answer slots: slot t speaks about answer token t given all that
    stands before it. The shift happens once, in the scorer.
  * Text is one stream of actions; a row may carry others (`Row.actions`), each with its own second
    axis. A term names its stream; the policy alone knows what kind of log-prob an action has.
  * Advantages see the whole batch; credit runs after the frozen forward passes; nothing below them
    computes a statistic over rows, so micro-batches and devices cannot change a result. What credit
    must know of all rows of an update is a sum over them (`Objective.sums`).
  * A term returns per-token values and the mask it speaks on; `reduce` turns them into one
    (numerator, denominator) pair, summed over devices and micro-batches and divided once.
  * Parameter sets are named and never alias; several may be trained, each by its own objective,
    and an objective without rows takes no step, so that stages and phases need no special case.
  * A round may be sampled ahead (`--off-policy`) where its objectives weigh rows of older weights
    (`weighs_stale`): `collect` then sees the weights that began the round before, this memory, and
    no optimizer state. Every segment says which weights sampled it.
  * Rows, segments and memory are immutable values. An edit makes a new row; what it has moved has
    `logp` None, the trainer computes it anew, and a correction of such rows is refused. A row that
    is sampled on after an edit, or several times from one point, is forked first.
  * All randomness of a row hangs on the run's key, the row's uid and a position, on nothing else.
  * Every row that was sampled is logged with its role and tokens, trained or not; a token that
    forks share counts once.
  * Options are bound with `bind`, so that equal recipes are equal values: rebuilding one does not
    recompile, and its `repr` is its full configuration.

Dimension letters, as suffixes of arrays of known rank: P prompts, G samples per prompt, N rows,
A answer slots, B and S packed rows and slots, L tree nodes per packed row, M flattened answer
slots, V vocabulary, K kept top tokens, D width, C cache slots, H heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import jax
import numpy as np

from jaxevo.bound import Bound as Bound
from jaxevo.bound import bind as bind

Array: TypeAlias = jax.Array | np.ndarray
Registered = TypeVar("Registered", bound=type)
Params: TypeAlias = Any  # nested dict of arrays
Source = Literal["prompt", "policy", "tool", "injected", "forced", "probe"]
Counters: TypeAlias = "Mapping[str, int]"
VerdictStatus = Literal["pass", "fail", "error"]
OWN = "own"  # the layout of rows as they were sampled


# ---------------------------------------------------------------------------- problems and rows
@dataclasses.dataclass(frozen=True)
class Message:
    """One chat turn; role is `system`, `user`, `assistant` or `tool`."""

    role: str
    content: str


@dataclasses.dataclass(frozen=True)
class Task:
    """One problem. `info` holds JSON values only."""

    uid: str
    messages: tuple[Message, ...]
    answer: str
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a verifier says of one answer: status, score in [0, 1], and why in words."""

    status: VerdictStatus
    score: float
    feedback: str = ""


@dataclasses.dataclass(frozen=True)
class TaskSource:
    """Where problems come from: random access by one integer, so that a position is one integer.

    `verifiers` map a name to `verify(task, text) -> Verdict`; the first one gives the reward. They
    may be called on several threads at a time. `weights`: what the scores of further ones are
    multiplied by and added to the reward as; one that has none is told, and not rewarded. `parts`:
    the sources that this one mixes.
    """

    name: str
    train: Callable[[int], Task]
    held_out: Callable[[int], Task]
    held_out_size: int
    verifiers: Mapping[str, Callable[[Task, str], Verdict]]
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    parts: tuple[TaskSource, ...] = ()


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of tokens from one source.

    `logp` [n] float32: log-prob under the policy that sampled it at the sampling temperature
    before truncation; None where nothing sampled it or an edit made it stale (the trainer then
    recomputes it, and importance correction is refused). `log_kept` [n]: log of the probability
    mass that top-k / top-p / min-p kept, None when nothing was cut. `entropy` [n] in nats.
    `weights_version`: how many rounds the weights that sampled it had been through; -1 for none.
    A `probe` is a place to read from: one id of any kind at the end of a row. What is read there,
    a value or the context of other actions, has seen the whole row.
    """

    ids: np.ndarray
    source: Source
    logp: np.ndarray | None = None
    log_kept: np.ndarray | None = None
    entropy: np.ndarray | None = None
    weights_version: int = -1


@dataclasses.dataclass(frozen=True)
class Actions:
    """A stream of T actions beside the text of a row: flow transitions, robot actions.

    `data` holds what the policy needs to score them again, arrays [T, ...] by name; algorithms do
    not look into it. `mask` [T] bool: the actions that were sampled, which alone have a log-prob.
    `logp` [T] float32 under the policy that sampled them, None where nothing did.
    """

    data: Mapping[str, np.ndarray]
    mask: np.ndarray
    logp: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """One conversation as sampled: segments in order, and what became of it.

    The answer of a row begins at its first non-prompt segment. `group` names the rows that are
    compared with each other, `episode` and `turn` place it in a game or a multi-turn world,
    `parent` is the uid of the row it was forked from. `rewards` are parts that are summed;
    `numbers` are what an advantage needs beside them: a baseline, a target, a difficulty;
    `by_token` are such numbers for each answer token: values, rewards of steps.
    `actions`, by stream, were chosen in the context that the row's probe has seen.
    """

    uid: int
    task: Task
    group: int
    segments: tuple[Segment, ...]
    episode: int = 0
    turn: int = 0
    role: str = "policy"
    parent: int | None = None
    temperature: float = 1.0
    rewards: Mapping[str, float] = dataclasses.field(default_factory=dict)
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    by_token: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    feedback: str = ""
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    actions: Mapping[str, Actions] = dataclasses.field(default_factory=dict)

    @property
    def reward(self) -> float:
        return float(sum(self.rewards.values()))

    @property
    def prompt_ids(self) -> np.ndarray:
        return _ids(leading_prompt(self.segments))

    @property
    def answer(self) -> tuple[Segment, ...]:
        return self.segments[len(leading_prompt(self.segments)) :]

    @property
    def answer_ids(self) -> np.ndarray:
        return _ids(self.answer)

    @property
    def accuracy(self) -> float:
        """The first reward part: what the task's first verifier said, without bonus or penalty."""
        return float(next(iter(self.rewards.values()), 0.0))

    @property
    def sampled_tokens(self) -> int:
        return sum(len(s.ids) for s in self.segments if s.source == "policy")


def leading_prompt(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """The leading prompt segments of a conversation."""
    count = 0
    while count < len(segments) and segments[count].source == "prompt":
        count += 1
    return tuple(segments[:count])


def _ids(segments: Sequence[Segment]) -> np.ndarray:
    parts = [np.asarray(s.ids, np.int32) for s in segments]
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


# ---------------------------------------------------------------------------- device arrays
def register(cls: Registered) -> Registered:
    """Makes a dataclass a JAX pytree; fields marked `metadata={"static": True}` are not traced."""
    fields = dataclasses.fields(cls)
    static = [f.name for f in fields if f.metadata.get("static")]
    data = [f.name for f in fields if f.name not in static]
    return jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=static)


@register
@dataclasses.dataclass(frozen=True)
class Samples:
    """Answers as drawn: ids, log-prob at the sampling temperature before truncation, entropy in
    nats, log of the kept mass (0 where nothing was cut), all [N, R]; `length_N` tokens are real.
    `finish_N` indexes `sampling.drawing.FINISH`.
    """

    ids_NR: Array
    logp_NR: Array
    entropy_NR: Array
    log_kept_NR: Array
    length_N: Array
    finish_N: Array


@register
@dataclasses.dataclass(frozen=True)
class Blended:
    """What a second parameter set adds to a stream's logits: hidden states, head, and its share."""

    hidden_NAD: Array
    head_DV: Array
    share: float = dataclasses.field(metadata={"static": True})


@register
@dataclasses.dataclass(frozen=True)
class Stream:
    """What one forward pass says about one stream of actions. Fields not read are None.

    logp_NA: log-prob of each action at the sampling temperature, float32. mask_NA: bool.
    entropy_NA: nats. hidden_NAD and head_DV: final hidden states and the unembedding that reads
    them, for losses over the whole vocabulary; logit_cap: c of a head whose logits are
    c · tanh(logits / c). values_NA: a value head's output. blend: see `View.blend`.
    """

    logp_NA: Array | None
    mask_NA: Array
    entropy_NA: Array | None = None
    hidden_NAD: Array | None = None
    head_DV: Array | None = None
    values_NA: Array | None = None
    blend: Blended | None = None
    logit_cap: float | None = dataclasses.field(default=None, metadata={"static": True})


@register
@dataclasses.dataclass(frozen=True)
class Answers:
    """The recorded actions of one stream: mask, what they were, and what the sampler said of them.

    ids_NA: token ids of the text; None for other streams, whose `data` [N, A, ...] only the policy
    reads. behaviour_NA: log-prob of the policy that really sampled (kept mass subtracted); valid
    where `known_N`. log_kept_NA: log of the kept mass, 0 when nothing was cut. probe_N: the answer
    slot of the row's probe, for the text; 0 where it has none.
    """

    ids_NA: Array | None
    mask_NA: Array
    behaviour_NA: Array
    log_kept_NA: Array
    known_N: Array
    probe_N: Array | None = None
    data: Mapping[str, Array] = dataclasses.field(default_factory=dict)


@register
@dataclasses.dataclass(frozen=True)
class Packed:
    """Token trees laid out for a model: `[B, S]` slots, what rows have in common stored once.

    A tree is laid out depth first, so that all that follows a slot stands in one stretch behind it:
    slot k is seen by the slots q with k <= q < until_BS[b, k]; padding has 0 there. read_BR: slots
    of packed row b whose hidden state is read. target_BR: the token that each of them predicts.
    index_NA: which flat read (b * R + r) belongs to answer slot (n, t).
    """

    ids_BS: Array
    positions_BS: Array
    until_BS: Array
    read_BR: Array
    target_BR: Array
    index_NA: Array


@register
@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows as arrays. Row scalars are [N]; padding rows have `real_N` False and empty masks.

    reward_N: sum of the reward parts; parts: each part [N]; numbers: `Row.numbers` [N], by_token:
    `Row.by_token` [N, A], both NaN where a row has none. uid_N2: high and low word of the rows'
    uids, for randomness (`jaxevo.keys`).
    group_N, episode_N: dense integers. role_N: index into the sorted role names.
    present: view name -> [N] bool, rows that have that view's context. layouts: view name ->
    Packed ("own" is the row as sampled); empty on the whole batch, filled per micro-batch.
    old: stream name -> [N, A] log-probs at the start of the phase, None when every update is the
    first one. advantage_N: filled after `objective.advantage`, [N, A] where that is by token.
    sums: filled from `objective.sums`, scalars over all rows of an update.
    """

    answers: Mapping[str, Answers]
    reward_N: Array
    parts: Mapping[str, Array]
    numbers: Mapping[str, Array]
    group_N: Array
    episode_N: Array
    turn_N: Array
    role_N: Array
    uid_N2: Array
    real_N: Array
    temperature: Array
    present: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    layouts: Mapping[str, Packed] = dataclasses.field(default_factory=dict)
    old: Mapping[str, Array] | None = None
    advantage_N: Array | None = None
    by_token: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    sums: Mapping[str, Array] = dataclasses.field(default_factory=dict)


# ---------------------------------------------------------------------------- recipes
@dataclasses.dataclass(frozen=True)
class View:
    """The same answers scored under another context and/or another parameter set.

    context: `(row, siblings, tokenizer) -> an object with .ids and .cut, or None`; without one the
    row keeps its own prompt. A row whose context is None is not scored: `batch.present[name]` is
    False there.
    params: a parameter set's name. read: what to compute, of `logp`, `entropy`, `hidden`, `values`.
    blend: a second set and its share in (0, 1): logits are (1 − share) times those of `params` plus
    share times those of the second. Nothing but `hidden` can be read of such a view.
    """

    name: str
    params: str = "policy"
    context: Bound | None = None
    read: tuple[str, ...] = ("logp",)
    blend: tuple[str, float] | None = None

    def __post_init__(self) -> None:
        if self.blend is None:
            return
        if not 0.0 < self.blend[1] < 1.0:
            raise ValueError(
                f"view {self.name} blends a share of {self.blend[1]}, but it must lie in (0, 1). "
                "Without blend= all of it is one set."
            )
        if self.read != ("hidden",):
            raise ValueError(
                f"view {self.name} blends two sets and reads {', '.join(self.read)}, but blended "
                'logits exist inside of a divergence alone. Use read=("hidden",).'
            )

    @property
    def sets(self) -> tuple[str, ...]:
        """The parameter sets that it is scored with."""
        return (self.params,) if self.blend is None else (self.params, self.blend[0])


@dataclasses.dataclass(frozen=True)
class Term:
    """One part of a loss: `fn(now, frozen, credit, batch, stream=...) -> (value_NA, mask_NA)`.

    stream: what it speaks on; A is that stream's own axis. now: stream name -> Stream of the
    current forward (differentiable). frozen: view name -> the same, gradients stopped; always has
    `old`. credit: the stream's own. reduce: `(value_NA, mask_NA, rows_N=real_N) -> (numerator,
    denominator)`; None takes the objective's.
    """

    name: str
    fn: Bound
    weight: float = 1.0
    reduce: Bound | None = None
    stream: str = "text"


@dataclasses.dataclass(frozen=True)
class Minibatch:
    """How a batch is cut into updates: `count` minibatches of whole rows, groups or episodes."""

    by: Literal["rows", "groups", "episodes"] = "groups"
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Objective:
    """How one parameter set learns from the rows that `collect` files under `name`.

    advantage: `(batch) -> [N]`, or [N, A] by answer token. credit: `(batch, now, frozen) ->
    {stream: {name: [N, A]}}`, stop-gradient.
    optimizer: `() -> optax.GradientTransformation`. check: `(batch) -> None`, raises ValueError on
    the host for rows that this objective must not learn from. learns: the sources whose tokens have
    mask 1: the policy's own, `forced` ones for imitation, or probes. reset: `(counters) -> bool`,
    whether the optimizer starts anew before the round's first update. idle: `(batch) -> [N] bool`,
    rows for which every term is 0 with gradient 0 whatever the policy says of them: they count in
    denominators, but no forward pass is made for them. weighs_stale: whether rows of older weights
    than those that start the round are weighed right, so that a round may be sampled ahead. sums:
    `(batch, now, frozen) -> {name: scalar}`, what credit must know of all rows of an update: added
    up over micro-batches and devices before the first gradient, and then in `batch.sums`; it costs
    another forward pass of what it reads where there are several micro-batches.
    """

    name: str
    advantage: Bound
    credit: Bound
    terms: tuple[Term, ...]
    reduce: Bound
    optimizer: Bound
    trains: str = "policy"
    read: tuple[str, ...] = ("logp", "entropy")
    views: tuple[View, ...] = ()
    epochs: int = 1
    minibatch: Minibatch = Minibatch()
    check: Bound | None = None
    learns: tuple[Source, ...] = ("policy",)
    reset: Bound | None = None
    idle: Bound | None = None
    weighs_stale: bool = False
    sums: Bound | None = None

    @property
    def updates(self) -> int:
        """Optimizer updates per round."""
        return self.epochs * self.minibatch.count

    @property
    def sets(self) -> tuple[str, ...]:
        """The parameter sets that it trains and that its views read, each once."""
        read = (name for view in self.views for name in view.sets)
        return tuple(dict.fromkeys((self.trains, *read)))


@dataclasses.dataclass(frozen=True)
class ParamSet:
    """A named set of weights; all start as copies of the loaded model.

    init: `(params, key) -> params`, what else the set needs, such as a head of `jaxevo.heads`.
    follows/rule/when: after a round with a finite update, for which `when(counters)` holds (None:
    always), the set becomes `rule(own, leader)`. Without `follows` it is trained by an objective,
    or stays frozen.
    """

    name: str
    follows: str | None = None
    rule: Bound | None = None
    when: Bound | None = None
    init: Bound | None = None


def keep_memory(memory: Any, experience: Any) -> Any:
    """The `grow` of a recipe without memory."""
    del experience
    return memory


@dataclasses.dataclass(frozen=True)
class NoMemory:
    """The memory of a recipe that remembers nothing between rounds."""


KEEP, NOTHING = bind(keep_memory), bind(NoMemory)


@dataclasses.dataclass(frozen=True)
class Size:
    """How large one objective's share of a round can get: what its static shapes are made for.

    rows: most rows of a round. answer: most answer slots of a row. group: rows that share a prefix
    tree. slots: most packed slots of such a tree.
    """

    rows: int
    answer: int
    group: int
    slots: int


@dataclasses.dataclass(frozen=True)
class Sizes:
    """context: longest context that is sampled from, in tokens; objectives: `Size` by name."""

    context: int
    objectives: Mapping[str, Size]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A method: who samples what, who learns from it, and what is remembered.

    collect: `(lab, state, memory) -> {objective name: rows}`; other names are for `grow` alone.
    grow: `(memory, experience) -> memory`. memory: `() -> frozen dataclass of numpy arrays and JSON
    values`, the initial one. sizes: `(rollout, prompt_tokens, tokenizer) -> Sizes`, None for P
    prompts x G single-turn answers; prompt_tokens is the longest prompt of the run's task. needs:
    `(source) -> None`, raises ValueError for a task source that the recipe cannot use.
    """

    name: str
    collect: Bound
    objectives: tuple[Objective, ...]
    params: tuple[ParamSet, ...] = (ParamSet("policy"),)
    grow: Bound = KEEP
    memory: Bound = NOTHING
    sizes: Bound | None = None
    needs: Bound | None = None

    def __post_init__(self) -> None:
        names = [p.name for p in self.params]
        if len(set(names)) != len(names):
            raise ValueError(f"recipe {self.name}: parameter sets must differ, got {names}.")
        for objective in self.objectives:
            for wanted in objective.sets:
                if wanted not in names:
                    raise ValueError(
                        f"recipe {self.name}: objective {objective.name} needs parameter set "
                        f"{wanted!r}, but the recipe has {names}. Add ParamSet({wanted!r})."
                    )
        for follower in self.params:
            if follower.follows is not None and follower.follows not in names:
                raise ValueError(
                    f"recipe {self.name}: {follower.name} follows {follower.follows!r}, "
                    f"but the recipe has {names}."
                )
            if (follower.follows is None) != (follower.rule is None):
                raise ValueError(
                    f"recipe {self.name}: {follower.name} needs follows= and rule=, or neither."
                )


@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that learns: named weights, optimizer states by objective, and host counters.

    counters: round (rounds done), position (problems drawn), rollouts (rows that any parameter set
    has sampled tokens of, trained or not), updates and skipped (optimizer
    updates done, and those refused for a non-finite loss or gradient), skipped_in_a_row.
    """

    params: Mapping[str, Params]
    optimizer: Mapping[str, Any]
    counters: Mapping[str, int]

    def replace(self, **changes: Any) -> TrainState:
        return dataclasses.replace(self, **changes)


UID_BITS = {"round": 20, "wave": 10, "prompt": 18, "sample": 14}  # 62: a uid is an int64


def row_uid(round_index: int, wave: int, prompt: int, sample: int) -> int:
    """A row's name, unique in a run, from where it stands: the seed of all its randomness.

    Raises:
      ValueError: when a part does not fit its bits.
    """
    uid = 0
    values = (round_index, wave, prompt, sample)
    for (name, bits), value in zip(UID_BITS.items(), values, strict=True):
        if not 0 <= value < 2**bits:
            raise ValueError(f"{name} index {value} does not fit into {bits} bits.")
        uid = (uid << bits) | value
    return uid
