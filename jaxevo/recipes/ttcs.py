"""TTCS: test-time curriculum synthesis by a synthesizer and a solver (arXiv 2601.22628)."""

from __future__ import annotations

from jaxevo.advantages import group_advantage
from jaxevo.collect import propose_then_solve as wave
from jaxevo.collect.stages import begins, take_turns
from jaxevo.losses.credit import broadcast, refuse_uncorrectable
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import policy_gradient, reference_kl
from jaxevo.optimizers import adamw
from jaxevo.teachers.follow import copy, every
from jaxevo.types import Minibatch, Objective, ParamSet, Recipe, Term, View, bind


def ttcs(
    *,
    learning_rate: float = 1e-6,
    kl_weight: float = 0.01,
    synthesizer_rounds: int = 5,
    solver_rounds: int = 15,
    minibatches: tuple[int, int] = (4, 2),
    references: int = 32,
    variants: int = 4,
    votes: int = 10,
    written: int = 500,
    question_tokens: int = 256,
    novelty: bool = True,
    repetition: bool = True,
    oversample: int = 3,
    band: tuple[float, float] = (0.25, 0.75),
) -> Recipe:
    """A synthesizer writes questions that divide the solver, which learns from its majorities.

    Two sets take turns under GRPO. The synthesizer sees a problem and writes another, for
    max(0, u - pen), u = (4 s (1 - s))^1.2 (1 - f): s is the share of the solver's answers that
    agree, f > 0 marks a near copy, pen is the share of the batch that is like it (BLEU clusters).
    The solver gets 1[answer = majority] on P questions, problems or written, inside the band.

    Differs from the paper: answers compare by last number; voters sample all tokens; no shuffling.

    Args:
      learning_rate: AdamW step size per update; each stage starts with a fresh optimizer.
      kl_weight: coefficient of the k3 KL to the weights that began the cycle.
      synthesizer_rounds: rounds of the synthesizer's stage; 0 leaves it out.
      solver_rounds: rounds of the solver's stage; 0 leaves it out.
      minibatches: updates per round of the synthesizer and of the solver; groups stay whole.
      references: problems per round that the synthesizer is shown.
      variants: questions that it writes after each.
      votes: answers of the solver to each of them.
      written: questions that it writes at the start of the solver's stage; 0 for none.
      question_tokens: longest prompt with a written question, in tokens.
      novelty: whether a near copy of the problem shown loses reward.
      repetition: whether questions that resemble each other lose reward.
      oversample: questions per draw over the run's P; at most 10 draws a round.
      band: least and largest mean reward of a question that the solver learns from.

    References:
      arXiv 2601.22628 and its official code.
    """
    schedule = (("synthesizer", synthesizer_rounds), ("policy", solver_rounds))
    when = bind(every, rounds=synthesizer_rounds + solver_rounds)
    limit = {"question_tokens": question_tokens}
    size = {"references": references, "variants": variants, **limit}
    propose = bind(wave.propose, votes=votes, novelty=novelty, repetition=repetition, **size)
    ask = {"renew": bind(begins, schedule=schedule, stage="policy"), "written": written, **limit}
    solve = bind(wave.solve, oversample=oversample, band=band, **ask)
    params, objectives = [], []
    for (name, _), count in zip(schedule, minibatches, strict=True):
        start = f"{name}_start"
        params += [ParamSet(name), ParamSet(start, follows=name, rule=bind(copy), when=when)]
        kl = Term("kl", bind(reference_kl, view=start), kl_weight)
        objective = Objective(
            name=name,
            advantage=bind(group_advantage),
            credit=bind(broadcast),
            terms=(Term("policy", bind(policy_gradient)), kl),
            reduce=reducer("token_mean"),
            optimizer=bind(adamw, learning_rate=learning_rate),
            trains=name,
            views=(View(start, params=start),),
            minibatch=Minibatch(by="groups", count=count),
            check=bind(refuse_uncorrectable),
            reset=bind(begins, schedule=schedule, stage=name),
        )
        objectives.append(objective)
    collect = bind(take_turns, schedule=schedule, waves=(propose, solve))
    grow, memory = bind(wave.remember_questions), bind(wave.Questions)
    sizes, learners = bind(wave.propose_then_solve_sizes, **size), tuple(objectives)
    return Recipe("ttcs", collect, learners, tuple(params), grow, memory, sizes)
