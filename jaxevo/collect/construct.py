"""Questions that one set builds by walking through a corpus, and another answers by searching it.

The builder's walk, its calls and their replies, leads to question and answer; it is rewarded for
questions that the solver answers at times. Those go into a pool, with the walk, which the solver
never sees and its teacher does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxevo.collect.edits import call_text, last_turn
from jaxevo.collect.lab import Lab, RolloutConfig
from jaxevo.collect.table import by_group, tallied
from jaxevo.collect.tool_loop import Rollback, ToolLoop, with_manual
from jaxevo.envs.search import Search
from jaxevo.rewards.repetition import repeated
from jaxevo.tasks.told import most_that_fits
from jaxevo.tasks.walks import Walk, build_task, built_task, holds, read_record
from jaxevo.types import Row, Segment, Size, Sizes, Task, TaskSource, TrainState

RIGHT = 0.5  # least accuracy of an answer that is right
WRITTEN = "written"  # rows that are filed for memory, and not learnt
Entry = Mapping[str, Any]  # question, answer, path, and how many attempts were right


@dataclasses.dataclass(frozen=True)
class Building:
    """What holds for all waves.

    tool: what is searched. turns: most turns of a conversation. variants: walks from each start.
    attempts: answers of the solver to each question, n. tokens: longest prompt of a builder or a
    solver. format_weight: of a question that is valid. grounded: whether the answer must stand in
    what the walk has found. repetition: whether questions like others of the batch lose reward.
    pool: most tasks that are remembered.
    """

    tool: Search
    turns: int = 4
    variants: int = 4
    attempts: int = 5
    tokens: int = 512
    format_weight: float = 0.1
    grounded: bool = True
    repetition: bool = True
    pool: int = 1024

    def __post_init__(self) -> None:
        if self.attempts < 2:
            raise ValueError(f"attempts={self.attempts}, but it takes 2 that may differ.")
        if self.pool < 1:
            raise ValueError(f"pool={self.pool} must hold at least 1 task.")

    def shown(self, *, chat: bool) -> tuple[Walk, ...]:
        """What the corpus has of worked walks, for chat models."""
        found = []
        for queries, question in self.tool.source.worked if chat else ():
            path = [_step(self.tool, query, compact=False) for query in queries]
            answer = self.tool.found(queries[-1])[0].text
            found.append(Walk(queries[0], path, question, answer))
        return tuple(found)

    def to_build(self, start: str, *, chat: bool) -> Task:
        """See `build_task`."""
        return build_task(start, self.shown(chat=chat), chat=chat)

    def to_answer(self, entry: Entry, *, chat: bool, path: Sequence[str] | None = None) -> Task:
        """See `built_task`."""
        shown = self.shown(chat=chat)
        return built_task(entry["question"], entry["answer"], path, shown, chat=chat)

    def starts(self, *, chat: bool) -> list[str]:
        """Where walks start: not where those do that are shown."""
        shown = {walk.start for walk in self.shown(chat=chat)}
        return [start for start in self.tool.source.starts if start not in shown]

    def loop(self, lab: Lab, params: str, role: str) -> ToolLoop:
        """Conversations of a set; failed calls stay as they are."""
        limit = lab.config.new_tokens
        return ToolLoop(lab, self.tool, Rollback(chance=0.0), limit, self.turns, params, role)


# ---------------------------------------------------------------------------- building
def write(lab: Lab, how: Building, *, params: str) -> list[Row]:
    """Walks from as many starts as the run has prompts, drawn from the corpus, `variants` of each.

    Returns:
      rows in order; `info["entry"]` is the question with answer and path, or None (`read_entry`).
    """
    starts = how.starts(chat=lab.tokenizer.chat)
    chosen = drawn(lab, "starts", len(starts))
    tasks = [_start(starts[n], lab.tokenizer, how) for n in chosen]
    rows = []
    for talk in how.loop(lab, params, params).run(tasks, how.variants):
        entry = read_entry(talk.row, lab.tokenizer, how)
        rows.append(dataclasses.replace(talk.row, info={**talk.row.info, "entry": entry}))
    return lab.record(rows)


def drawn(lab: Lab, name: str, size: int) -> list[int]:
    """P of `size` places at random, each once where there are enough."""
    count = lab.config.prompts
    return lab.generator(name).choice(size, size=count, replace=count > size).tolist()


def _start(start: str, tokenizer: Any, how: Building) -> Task:
    """The builder's task; of a long entry as much as fits.

    Raises:
      ValueError: when not even the instructions fit.
    """

    def task(keep: int) -> Task:
        return how.to_build(start[:keep], chat=tokenizer.chat)

    most = most_that_fits(lambda n: _fits(task(n), tokenizer, how), len(start))
    if not most:
        raise ValueError(
            f"a builder's prompt has more than {how.tokens} tokens. Allow longer ones "
            "(question_tokens)."
        )
    return task(most)


def _fits(task: Task, tokenizer: Any, how: Building) -> bool:
    asked = with_manual(task, how.tool.manual(compact=not tokenizer.chat))
    return len(tokenizer.render(asked.messages)) <= how.tokens


def walked(row: Row, tokenizer: Any, tool: Search) -> list[str]:
    """The calls of a conversation that found something, each with its reply behind it, in order."""
    compact, path, turn = not tokenizer.chat, list[str](), list[Segment]()
    marks = tool.marks(compact=compact)
    for segment in row.answer:
        if segment.source == "policy":
            turn.append(segment)
        elif segment.source == "tool":
            call = call_text(tuple(turn), tokenizer, marks) or ""
            if step := _step(tool, call, compact=compact):
                path.append(step)
            turn = []
    return path


def _step(tool: Search, call: str, *, compact: bool) -> str:
    """A call and its reply behind it; nothing where it has found nothing."""
    (begin, end), reply = tool.marks(compact=compact), tool.reply(call, compact=compact)
    return "" if reply.error else f"{begin}{call}{end}{reply.text}"


def read_entry(row: Row, tokenizer: Any, how: Building) -> dict[str, Any] | None:
    """Question, answer and path of a walk; None where it has not led to a valid question.

    Valid is a record (`read_record`) whose question does not hold the answer and whose prompt fits;
    with `grounded` the walk has found the answer.
    """
    text = tokenizer.text([int(i) for s in last_turn(row) for i in s.ids])
    record = read_record(text, chat=tokenizer.chat)
    if record is None:
        return None
    question, answer = record
    path = walked(row, tokenizer, how.tool)
    unfounded = how.grounded and not any(holds(step, answer) for step in path)
    entry = {"question": question, "answer": answer, "path": path}
    asked = how.to_answer(entry, chat=tokenizer.chat)
    if unfounded or holds(question, answer) or not _fits(asked, tokenizer, how):
        return None
    return entry


# ---------------------------------------------------------------------------- rewards
def difficulty(right: int, attempts: int) -> float:
    """1[0 < k < n] (n − k) / (n − 1): 1 where one of n attempts is right, 0 where all or none are.

    References: arXiv 2604.14054; the form is that of Dr. Zero.
    """
    return (attempts - right) / (attempts - 1) if 0 < right < attempts else 0.0


def repetitions(entries: Sequence[Entry | None], *, chat: bool) -> list[float]:
    """(c − 1) / N: share of the batch that has the same answer as a task, and nearly its question.

    c is the size of its cluster (`rewards.repetition`), N the batch, 0 for what is no task.
    """
    found, same = [0.0] * len(entries), dict[str, list[int]]()
    for n, entry in enumerate(entries):
        if entry is not None:
            same.setdefault(entry["answer"].casefold(), []).append(n)
    for places in same.values():
        texts = [entries[n]["question"] for n in places]  # pyright: ignore[reportOptionalSubscript]
        shares = repeated([text.split() if chat else text for text in texts])
        for n, share in zip(places, shares.tolist(), strict=True):
            found[n] = (round(share * len(places)) - 1) / len(entries)
    return found


def examine(
    lab: Lab,
    state: TrainState,
    memory: Any,
    *,
    how: Building,
    params: str = "examiner",
    solver: str = "policy",
) -> dict[str, list[Row]]:
    """Questions that are rewarded for being answered at times: the experience of `params`.

    R = max(0, `difficulty` + format_weight − `repetitions`) of a valid question, else 0.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      how: see `Building`.
      params: the set that builds. solver: the set that answers, without the path.

    Returns:
      the builder's rows with part `task`, rows of one start a group. `info["entry"]` has k (right)
      and n (attempts), `info["tally"]` has valid and, of what is, hops, solved (k / n), undecided
      and repeated.
    """
    del state, memory
    rows = write(lab, how, params=params)
    counts = iter(right_answers(lab, [r.info["entry"] for r in rows], how, solver=solver))
    shares = repetitions([r.info["entry"] for r in rows], chat=lab.tokenizer.chat)
    graded = [_graded(row, counts, share, how) for row, share in zip(rows, shares, strict=True)]
    return {params: lab.record(graded)}


def right_answers(
    lab: Lab, entries: Sequence[Entry | None], how: Building, *, solver: str
) -> list[int]:
    """How many of `attempts` conversations about each valid question end right."""
    chat = lab.tokenizer.chat
    tasks = [how.to_answer(entry, chat=chat) for entry in entries if entry is not None]
    if not tasks:
        return []
    talks = how.loop(lab, solver, "attempt").run(tasks, how.attempts)
    groups = by_group(lab.verify([talk.row for talk in talks])).values()
    return [sum(row.accuracy >= RIGHT for row in group) for group in groups]


def _graded(row: Row, counts: Iterator[int], share: float, how: Building) -> Row:
    entry = row.info["entry"]
    if entry is None:
        return tallied(dataclasses.replace(row, rewards={"task": 0.0}), valid=0.0)
    right = next(counts)
    penalty = share if how.repetition else 0.0
    reward = max(0.0, difficulty(right, how.attempts) + how.format_weight - penalty)
    told = {"hops": len(entry["path"]), "solved": right / how.attempts, "repeated": share}
    known = {**entry, "right": right, "attempts": how.attempts}
    row = dataclasses.replace(row, rewards={"task": reward}, info={**row.info, "entry": known})
    return tallied(row, valid=1.0, undecided=float(undecided(known)), **told)


# ---------------------------------------------------------------------------- memory
@dataclasses.dataclass(frozen=True)
class TaskPool:
    """Tasks that are answered at times, the oldest first, with question, answer, path, and how many
    (right) of how many (attempts) answers were right when they were built."""

    entries: Sequence[Entry] = ()


def undecided(entry: Entry) -> bool:
    """Whether some attempts were right, and some not."""
    return 0 < entry["right"] < entry["attempts"]


def remember_tasks(
    memory: TaskPool,
    experience: Mapping[str, Sequence[Row]],
    *,
    most: int,
    params: str = "examiner",
) -> TaskPool:
    """The `grow` of these waves: what was built last replaces the oldest, and an equal question."""
    rows = [*experience.get(params, ()), *experience.get(WRITTEN, ())]
    entries = {entry["question"]: entry for entry in memory.entries}
    for entry in (row.info["entry"] for row in rows):
        if entry is not None and undecided(entry):
            entries.pop(entry["question"], None)
            entries[entry["question"]] = entry
    return TaskPool(tuple(entries.values())[-most:])


# ---------------------------------------------------------------------------- answering
def answer(
    lab: Lab,
    state: TrainState,
    memory: TaskPool,
    *,
    how: Building,
    params: str = "policy",
    builder: str = "examiner",
) -> dict[str, list[Row]]:
    """P tasks drawn from the pool, G conversations with the tool each, verified.

    The verdict is that of the run's first verifier. Where the pool is empty it is filled first;
    where it stays empty, there is nothing to learn.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      how: see `Building`.
      params: the set that answers. builder: the set that builds where the pool is empty.

    Returns:
      the answers' rows under the name of `params`, with the path in `task.info`, and for
      `remember_tasks` what was built under "written". `info["tally"]["pool"]` is the pool's size.
    """
    written: list[Row] = []
    if not memory.entries:
        written = examine(lab, state, memory, how=how, params=builder, solver=params)[builder]
        memory = remember_tasks(memory, {WRITTEN: written}, most=how.pool)
    size, chat = len(memory.entries), lab.tokenizer.chat
    if not size:
        return {params: [], WRITTEN: written}
    chosen = [memory.entries[n] for n in drawn(lab, "pool", size)]
    tasks = [how.to_answer(entry, chat=chat, path=entry["path"]) for entry in chosen]
    talks = how.loop(lab, params, params).run(tasks, lab.config.samples)
    rows = lab.verify([talk.row for talk in talks])
    return {params: lab.record([tallied(row, pool=size) for row in rows]), WRITTEN: written}


def construct_sizes(
    rollout: RolloutConfig,
    prompt_tokens: int,
    tokenizer: Any,
    *,
    how: Building,
    params: tuple[str, str] = ("examiner", "policy"),
) -> Sizes:
    """Room for P x variants walks of one set and P x G answers of the other.

    Raises:
      ValueError: where the tool's corpus or the builder's prompt does not suit the tokenizer.
    """
    _start(how.tool.source.starts[0], tokenizer, how)
    answer, sizes = rollout.new_tokens, {}
    for name, group in zip(params, (how.variants, rollout.samples), strict=True):
        slots = how.tokens + group * (answer - 1)
        sizes[name] = Size(rollout.prompts * group, answer=answer, group=group, slots=slots)
    return Sizes(max(prompt_tokens, how.tokens) + answer - 1, sizes)


def needs_one_part(source: TaskSource) -> None:
    """A `Recipe.needs`: the built tasks are verified by a source's first verifier.

    Raises:
      ValueError: for a mixture, of which it would be that of any one part.
    """
    if source.parts:
        raise ValueError(
            f"task {source.name!r} mixes parts with verifiers of their own, but tasks that are "
            "built belong to none of them. Name one part."
        )
