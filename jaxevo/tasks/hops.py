"""Questions of two hops through the graph that only a search tool knows (`jaxevo.envs.graph`).

Models of characters are asked `12**=`, a star for each hop; `12*=` would be one. A quarter of the
numbers is held out: none of them starts a training problem.
"""

from __future__ import annotations

from jaxevo.envs.graph import QUESTION, after, starts
from jaxevo.rewards.overlap import short_answer
from jaxevo.tasks.draw import task_source
from jaxevo.tasks.walks import CHAT_ASKED
from jaxevo.types import Message, Task, TaskSource

HOPS = 2


def hops(name: str, *, seed: int = 0) -> TaskSource:
    """The source `hops`.

    Args:
      name: of the source.
      seed: >= 0; orders the training problems, anew in each epoch.

    Returns:
      A source whose tasks carry `info`: plain (see `arithmetic.plain`). Its verifier reads the
      final answer of a conversation with a search tool (`short_answer`).

    Raises:
      ValueError: for a negative seed.
    """
    train, held_out = ([_task(name, start) for start in side] for side in starts())
    verifiers = {"short_answer": short_answer}
    return task_source(name, (train, held_out), verifiers=verifiers, seed=seed)


def _task(name: str, start: str) -> Task:
    question = CHAT_ASKED.format(question=QUESTION.format(hops=HOPS, start=start))
    info = {"plain": f"{start}{'*' * HOPS}="}
    return Task(f"{name}/{start}", (Message("user", question),), after(start, HOPS), info)
