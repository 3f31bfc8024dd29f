"""π-Play: self-play by search with the path of construction as a teacher's context (2604.14054)."""

from __future__ import annotations

import dataclasses

from jaxevo.advantages import group_advantage, untaught
from jaxevo.collect import construct as wave
from jaxevo.collect.stages import has_turn, take_turns
from jaxevo.envs.search import Search
from jaxevo.losses.credit import Correction, Truncation, distilled
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import over_all_tokens, policy_gradient
from jaxevo.objectives import Divergence, divergence, parameter_sets, policy_objective
from jaxevo.optimizers import adamw
from jaxevo.teachers import path_given, teacher
from jaxevo.types import Minibatch, Recipe, Term, bind


def pi_play(
    *,
    corpus: str = "graph",
    passages: int = 3,
    turns: int = 4,
    examiner_rounds: int = 50,
    student_rounds: int = 50,
    variants: int = 4,
    attempts: int = 5,
    format_weight: float = 0.1,
    grounded: bool = True,
    repetition: bool = True,
    pool: int = 1024,
    question_tokens: int = 512,
    learning_rate: float = 1e-6,
    warmup_updates: int = 0,
    max_grad_norm: float = 1.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    distill_weight: float = 0.1,
    kind: Divergence = "sampled",
    distill_top_k: int | None = 100,
    teacher_rate: float = 0.05,
    context_tokens: int = 1024,
    ratio_cap: float = 2.0,
    correction: Correction = "none",
    correction_cap: float = 2.0,
    truncation: Truncation = "correct",
    minibatches: tuple[int, int] = (1, 1),
) -> Recipe:
    """An examiner builds questions by searching; a teacher that sees its path helps the student.

    Two sets take turns under GRPO. The examiner walks from an entry of the corpus and writes
    question and answer, for 1[0 < k < n] (n - k) / (n - 1) + 0.1: k of the student's n answers are
    right; 0 if invalid. The student learns such questions from a pool, by 1[right] and by w D(p ||
    q) over all of its tokens, q the student's EMA with the walk in its prompt. Against GRPO: nobody
    gives problems, and a group that fails as a whole has a gradient.

    Differs from the paper: the path is the walk's own calls and what they found, not a report; a
    graph (task `hops`) or a file under BM25, not Wikipedia; the teacher moves once a round of the
    student (one update). Most equations and defaults are ours. Evaluation is without the tool.

    Args:
      corpus: graph, of which chat models see worked walks, or a .jsonl of {"title", "text"} lines.
      passages: most passages of one reply.
      turns: most turns of a conversation; --max-new-tokens bounds it, replies included.
      examiner_rounds: of its stage; 0 has it build only where the pool is empty, unlearnt.
      student_rounds: of its stage; 0 leaves it out.
      variants: walks from each of the run's P entries a round.
      attempts: answers of the student to a question, n.
      format_weight: reward of any valid question.
      grounded: whether a valid answer must stand in what the walk has found.
      repetition: whether questions of one answer that are alike lose reward.
      pool: most tasks that are remembered, the newest ones.
      question_tokens: longest prompt without a path, in tokens; a longer question is invalid.
      learning_rate: AdamW step size per update, of both sets.
      warmup_updates: updates of linear warm-up.
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      clip_low: how far the ratio may fall below 1 before its gradient stops.
      clip_high: how far the ratio may rise above 1 before its gradient stops.
      distill_weight: w; 0 leaves the teacher out.
      kind: divergence, see sdpo; sampled is sg(log p - log q) log p of the token alone.
      distill_top_k: support of other kinds, the policy's k likeliest tokens; none for all.
      teacher_rate: EMA rate; 0 freezes the teacher, 1 copies the student.
      context_tokens: longest prompt with a path; longer paths lose their middle.
      ratio_cap: bound on p / p_old, by which the divergence is multiplied.
      correction: importance weights between sampler and trainer, see grpo; for all terms.
      correction_cap: the largest importance weight.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on.
      minibatches: updates per round of the examiner and of the student; groups stay whole.

    References:
      arXiv 2604.14054.
    """
    plain = policy_objective(
        advantage=bind(group_advantage),
        surrogate=bind(policy_gradient, clip_low=clip_low, clip_high=clip_high),
        reduce=reducer("token_mean"),
        optimizer=bind(
            adamw,
            learning_rate=learning_rate,
            warmup_updates=warmup_updates,
            max_grad_norm=max_grad_norm,
        ),
        correction=correction,
        correction_cap=correction_cap,
        truncation=truncation,
    )
    examiner, student = (
        dataclasses.replace(plain, name=name, trains=name, minibatch=Minibatch(count=count))
        for name, count in zip(("examiner", "policy"), minibatches, strict=True)
    )
    schedule, followers = (("examiner", examiner_rounds), ("policy", student_rounds)), ()
    if distill_weight:
        distill, read = divergence(kind, top_k=distill_top_k)
        given = bind(path_given, max_prompt_tokens=context_tokens)
        guide = teacher("ema", context=given, read=read, rate=teacher_rate)
        when = bind(has_turn, schedule=schedule, stage=student.name)
        followers = tuple(dataclasses.replace(own, when=when) for own in guide.params)
        everywhere = bind(over_all_tokens, term=distill)
        weights = {"correction": correction, "cap": correction_cap, "truncation": truncation}
        student = dataclasses.replace(
            student,
            credit=bind(distilled, ratio_cap=ratio_cap, **weights),
            terms=(*student.terms, Term("distill", everywhere, distill_weight)),
            read=tuple(dict.fromkeys((*student.read, *read))),
            views=(guide.view,),
            idle=bind(untaught),
        )
    how = wave.Building(
        Search(corpus, passages),
        turns=turns,
        variants=variants,
        attempts=attempts,
        tokens=question_tokens,
        format_weight=format_weight,
        grounded=grounded,
        repetition=repetition,
        pool=pool,
    )
    waves = (bind(wave.examine, how=how), bind(wave.answer, how=how))
    return Recipe(
        "pi-play",
        bind(take_turns, schedule=schedule, waves=waves),
        (student, examiner),
        parameter_sets(student, examiner, given=followers),
        bind(wave.remember_tasks, most=pool),
        bind(wave.TaskPool),
        bind(wave.construct_sizes, how=how),
        bind(wave.needs_one_part),
    )
