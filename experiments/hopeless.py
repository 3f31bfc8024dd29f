"""A toy that is sure of a wrong rule, each two-digit sum one too high, and where it fails."""

from __future__ import annotations

import numpy as np

from experiments.study import Run
from jaxevo.models import toy
from jaxevo.models.hub import LoadedModel
from jaxevo.tasks import arithmetic, plain, task_source
from jaxevo.types import TaskSource

DRAWN, HOPELESS = 1024, 1e-3  # problems looked at; most probability of the right answer


def wrong_sum(generator: np.random.Generator) -> tuple[str, str]:
    """A two-digit sum and an answer that is one too high."""
    first, second = (int(x) for x in generator.integers(10, 100, 2))
    return f"{first}+{second}=", str(first + second + 1)


def hopeless(model: LoadedModel, seed: int) -> tuple[TaskSource, int]:
    """Sums that the model answers right with a probability below `HOPELESS`, and how many."""
    source = plain(arithmetic("add2", seed=seed))
    drawn = [source.train(n) for n in range(DRAWN)]
    tasks = list({task.uid: task for task in drawn}.values())
    lines = [(task.messages[-1].content, task.answer) for task in tasks]
    logp = np.asarray(toy.answer_logp(model.params, lines))
    kept = [task for task, x in zip(tasks, logp, strict=True) if x < np.log(HOPELESS)]
    held_out = [source.held_out(n) for n in range(source.held_out_size)]
    found = task_source("hopeless", (kept, held_out), verifiers=source.verifiers, seed=seed)
    return found, len(kept)


def equal_rounds(run: Run) -> list[float]:
    """Norms of the gradient in rounds whose groups had equal rewards each."""
    rounds = run["by_round"]
    both = zip(rounds["grad_norm"], rounds["zero_variance_share"], strict=True)
    return [norm for norm, share in both if share == 1.0]
