"""Questions written by one parameter set and answered by another; nobody knows right answers.

The writer sees a reference question and writes another; how far the solver's own answers to it
agree is the writer's reward. What was written goes into memory, between the references, and the
solver learns from what its answers agree on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxevo.collect.lab import Lab, RolloutConfig
from jaxevo.collect.table import by_group
from jaxevo.collect.waves import read_answers, voted
from jaxevo.rewards.novelty import copied
from jaxevo.rewards.repetition import repeated
from jaxevo.rewards.vote import bell, consistency, undecided
from jaxevo.tasks.proposer import read_question, variation_task, with_question
from jaxevo.types import Bound, Message, Row, Size, Sizes, Task, TrainState


# ---------------------------------------------------------------------------- writing
def write(
    lab: Lab, count: int, *, samples: int, question_tokens: int, params: str = "synthesizer"
) -> list[Row]:
    """Has questions written after the next `count` problems, `samples` after each.

    Returns:
      rows in order. `info["question"]` is what was written, empty where none could be read or its
      prompt would be longer than `question_tokens`; the task's info has the reference's question
      and its `position` in the task source.
    """
    first, chat = lab.position, lab.tokenizer.chat
    tasks = []
    for position, reference in enumerate(lab.tasks(count), first):
        task = variation_task(reference, chat=chat)
        tasks.append(dataclasses.replace(task, info={**task.info, "position": position}))
    rows = []
    for row in lab.sample(tasks, samples=samples, params=params, role=params):
        question = read_question(lab.answer_text(row), chat=chat)
        if question:
            asked = problem(lab, (row.task.info["position"], question))
            fits = len(lab.tokenizer.render(asked.messages)) <= question_tokens
            question = question if fits else ""
        rows.append(dataclasses.replace(row, info={**row.info, "question": question}))
    return lab.record(rows)


def proposal_reward(share: float, *, copy: float = 0.0, repetition: float = 0.0) -> float:
    """max(0, bell(s) (1 − f) − penalty) of a question, in [0, 1].

    Args:
      share: s, how far answers to it agree (`rewards.vote.consistency`).
      copy: f, how much of a copy of its reference it is (`rewards.novelty.copied`).
      repetition: share of its batch that is like it (`rewards.repetition.repeated`).

    References: arXiv 2601.22628.
    """
    return max(0.0, bell(share) * (1.0 - copy) - repetition)


def propose(
    lab: Lab,
    state: TrainState,
    memory: Any,
    *,
    references: int,
    variants: int,
    votes: int,
    question_tokens: int,
    novelty: bool = True,
    repetition: bool = True,
    params: str = "synthesizer",
    solver: str = "policy",
) -> dict[str, list[Row]]:
    """Questions that are rewarded for dividing the solver's answers: the experience of `params`.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      references: problems that are shown to the writer.
      variants: questions written after each.
      votes: answers of the solver to each question.
      question_tokens: longest prompt with a written question.
      novelty: whether a near copy of the reference loses reward.
      repetition: whether what resembles much of the batch loses reward.
      params: the set that writes. solver: the set that answers.

    Returns:
      the writer's rows with part `proposal`, 0 where nothing was read; `info` has consistency,
      copied and repeated.
    """
    del state, memory
    rows = write(lab, references, samples=variants, question_tokens=question_tokens, params=params)
    shares = consistencies(lab, rows, votes=votes, solver=solver)
    texts = [row.info["question"] for row in rows]
    words = [text.split() if lab.tokenizer.chat else text for text in texts]
    penalties = repeated(words).tolist() if repetition else [0.0] * len(rows)
    judged = []
    for row, text, share, penalty in zip(rows, texts, shares, penalties, strict=True):
        copy = copied(row.task.info["reference"], text) if novelty and text else 0.0
        reward = proposal_reward(share, copy=copy, repetition=penalty) if text else 0.0
        info = {**row.info, "consistency": share, "copied": copy, "repeated": penalty}
        judged.append(dataclasses.replace(row, rewards={"proposal": reward}, info=info))
    return {params: lab.record(judged)}


def consistencies(lab: Lab, written: Sequence[Row], *, votes: int, solver: str) -> list[float]:
    """How far `votes` answers to each row's question agree; 0 where there is no question."""
    entries = [entry_of(row) for row in written if row.info["question"]]
    tasks = [problem(lab, entry) for entry in entries]
    rows = lab.sample(tasks, samples=votes, params=solver, role="voter") if tasks else []
    answers = read_answers(lab, rows)
    found = iter(consistency(answers[n : n + votes]) for n in range(0, len(rows), votes))
    return [next(found) if row.info["question"] else 0.0 for row in written]


# ---------------------------------------------------------------------------- memory
Entry = tuple[int, str]  # a problem's position in the source, and a question written after it or ""


@dataclasses.dataclass(frozen=True)
class Questions:
    """What the solver is asked, in order, and how many of them it has been asked.

    After the last entry the first comes again. Without entries it is asked the source's problems.
    """

    entries: Sequence[Entry] = ()
    asked: int = 0


def entry_of(row: Row) -> Entry:
    """A written question as an entry of `Questions`."""
    return row.task.info["position"], row.info["question"]


def problem(lab: Lab, entry: Entry) -> Task:
    """The task that an entry stands for."""
    position, question = entry
    reference = lab.source.train(position)
    return with_question(reference, question) if question else reference


def mixed(written: Sequence[Row]) -> Questions:
    """References and what was written after them, each question once, none asked so far.

    All references take turns with as many written questions; the other written ones follow.
    """
    real: dict[str, Entry] = {}
    for row in written:
        real.setdefault(row.task.info["reference"], (row.task.info["position"], ""))
    new: dict[str, Entry] = {}
    for row in written:
        question = row.info["question"]
        if question and question not in real:
            new.setdefault(question, entry_of(row))
    own, other = list(real.values()), list(new.values())
    pairs = [entry for pair in zip(own, other, strict=False) for entry in pair]
    both = len(pairs) // 2
    return Questions((*pairs, *own[both:], *other[both:]))


def remember_questions(memory: Questions, experience: Mapping[str, Sequence[Row]]) -> Questions:
    """The `grow` of these waves: newly written questions replace the old, and asked ones count."""
    if written := experience.get("written", ()):
        memory = mixed(written)
    asked = len(by_group(experience.get("asked", ())))
    return dataclasses.replace(memory, asked=memory.asked + asked)


# ---------------------------------------------------------------------------- solving
def solve(
    lab: Lab,
    state: TrainState,
    memory: Questions,
    *,
    renew: Bound,
    written: int,
    question_tokens: int,
    oversample: int = 3,
    band: tuple[float, float] = (0.25, 0.75),
    draws: int = 10,
    params: str = "policy",
    writer: str = "synthesizer",
) -> dict[str, list[Row]]:
    """P questions whose answers agree neither too much nor too little, G answers each.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      renew: `(counters) -> bool`, whether new questions are written before anything is asked.
      written: questions that are written then; 0 asks the source's problems only.
      question_tokens: longest prompt with a written question.
      oversample: P times this many questions are asked in each draw.
      band: a question is kept when the mean reward of its answers lies in it.
      draws: how often to draw at most.
      params: the set that answers. writer: the set that writes.

    Returns:
      the kept rows, rewarded for agreeing with the majority, under the name of `params`; for
      `remember_questions` all answers under "asked", and what was written under "written".

    Raises:
      ValueError: when the draws do not give P questions.
    """
    new: list[Row] = []
    if written and renew(state.counters):
        new = write(lab, written, samples=1, question_tokens=question_tokens, params=writer)
        memory = mixed(new)
    kept, asked = draw_until(
        lab, memory, oversample=oversample, band=band, draws=draws, params=params
    )
    return {params: [row for group in kept for row in group], "asked": asked, "written": new}


def draw_until(
    lab: Lab,
    memory: Questions,
    *,
    oversample: int,
    band: tuple[float, float],
    draws: int,
    params: str,
) -> tuple[list[list[Row]], list[Row]]:
    """The first P groups of voted answers that lie in the band, and all answers that it took.

    Raises:
      ValueError: when the draws do not give P.
    """
    wanted = lab.config.prompts
    count = wanted * oversample
    kept, asked = [], []
    for draw in range(draws):
        tasks = next_problems(lab, memory, count, skip=draw * count)
        rows = voted(lab, lab.sample(tasks, params=params))
        asked += rows
        kept += [group for group in by_group(rows).values() if _in_band(group, *band)]
        if len(kept) >= wanted:
            return kept[:wanted], asked
    raise ValueError(
        f"{draws} draws of {count} questions gave {len(kept)} of {wanted} whose mean reward lies "
        f"in {list(band)}: the answers to the others agree too well or too little. Widen the band, "
        "ask more questions per draw, or end the run here."
    )


def _in_band(group: Sequence[Row], low: float, high: float) -> bool:
    return undecided([row.reward for row in group], low=low, high=high)


def next_problems(lab: Lab, memory: Questions, count: int, *, skip: int = 0) -> list[Task]:
    """The next `count` tasks of memory after `skip` others, or of the source if it has none."""
    if not memory.entries:
        return lab.tasks(count)
    start, size = memory.asked + skip, len(memory.entries)
    return [problem(lab, memory.entries[n % size]) for n in range(start, start + count)]


def propose_then_solve_sizes(
    rollout: RolloutConfig,
    prompt_tokens: int,
    tokenizer: Any,
    *,
    references: int,
    variants: int,
    question_tokens: int,
    params: tuple[str, str] = ("synthesizer", "policy"),
) -> Sizes:
    """Room for `references` x `variants` questions of one set and P x G answers of the other."""
    empty = Task("", (Message("user", ""),), "")
    form = variation_task(empty, chat=tokenizer.chat).messages
    writing = len(tokenizer.render(form)) + prompt_tokens
    asking = max(prompt_tokens, question_tokens)
    answer, samples = rollout.new_tokens, rollout.samples
    writer, solver = params
    sizes = {
        writer: Size(references * variants, answer, variants, writing + variants * (answer - 1)),
        solver: Size(rollout.prompts * samples, answer, samples, asking + samples * (answer - 1)),
    }
    return Sizes(max(writing, asking), sizes)
