"""`jaxevo eval`: held-out accuracy of a run or a model, and its comparison with another one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from jaxevo.models.tokenizer import Template

AT_ONCE = 64  # answers that are sampled side by side
KS = (1, 4, 8)


def evaluate_model(
    subject: str = "smollm2-135m",
    *,
    task: str = "add1",
    problems: int = 64,
    samples: int = 0,
    k: tuple[int, ...] = (),
    max_new_tokens: int = 16,
    temperature: float = 1.0,
    template: Template = "chatml",
    seed: int = 0,
    out: str = "",
    against: str = "",
) -> int:
    """Held-out accuracy, unbiased pass@k and maj@k, with bootstrap intervals over problems.

    Args:
      subject: run folder, whose last checkpoint's policy is evaluated, or a model's name or folder.
      task: tasks whose held-out problems are used, joined by commas; within a task's options, and
        between the parts of a mixture, a comma is written %2C.
      problems: held-out problems of each task, at most what it has; at least 1.
      samples: answers per problem; 0 for 8, or 1 where sampling is greedy.
      k: values of k, each at most samples; none for those of 1, 4, 8 that are.
      max_new_tokens: longest answer, in tokens.
      temperature: sampling temperature; 0 is greedy.
      template: prompt form.
      seed: seed of the sampler and of the intervals.
      out: folder for eval.json (the table and what it is of) and items.jsonl (a line an answer).
      against: folder of another evaluation, to compare problem by problem.
    """
    from jaxevo.provenance import provenance
    from jaxevo.run import eval_files
    from jaxevo.run.restore import load_subject

    samples = samples or (1 if temperature == 0 else KS[-1])
    _check(samples=samples, problems=problems, temperature=temperature, k=k)
    tasks = split_tasks(task)
    other = eval_files.read_items(against) if against else []
    options: dict[str, Any] = {
        "problems": problems, "samples": samples, "k": k or tuple(n for n in KS if n <= samples),
        "max_new_tokens": max_new_tokens, "temperature": temperature, "template": template,
        "seed": seed,
    }  # fmt: skip
    source = provenance("eval") | {"options": {"subject": subject, "task": task, **options}}
    loaded = load_subject(subject)
    table, items, start = {}, [], time.perf_counter()
    for name in tasks:
        found, lines = _evaluate_task(loaded, name, **options)
        table[name], items = found, items + lines
        print("\n".join(eval_files.table_lines(name, found)), flush=True)
    compared = eval_files.compare_items(items, other, seed=seed) if against else None
    if compared is not None:
        print("\n".join(eval_files.comparison_lines(compared, against)))
    if out:
        result = {**source, "seconds": round(time.perf_counter() - start, 1), "table": table}
        if compared is not None:
            result["against"] = {"folder": against, **compared}
        print(f"written: {eval_files.write_eval(Path(out), result, items)}")
    return 0


def split_tasks(names: str) -> list[str]:
    """The tasks of a list joined by commas, mixtures with commas of their own again.

    Raises:
      ValueError: for an empty name or one that is given twice.

    >>> split_tasks("data.jsonl?prompt=a%2Cb,mix:add1%2Csub1")
    ['data.jsonl?prompt=a%2Cb', 'mix:add1,sub1']
    """
    from jaxevo.tasks.names import MIX

    found = [name.strip() for name in names.split(",")]
    if "" in found or len(set(found)) < len(found):
        raise ValueError(
            f"--task {names!r} needs different names joined by single commas, such as add1,sub1."
        )
    return [name.replace("%2C", ",") if name.startswith(MIX) else name for name in found]


def _check(*, samples: int, problems: int, temperature: float, k: tuple[int, ...]) -> None:
    if samples < 1 or problems < 1:
        raise ValueError(
            f"--problems is {problems} and --samples {samples}, but an evaluation needs 1 of each."
        )
    if max(k, default=1) > samples:
        raise ValueError(
            f"--k {max(k)} needs at least as many samples, but --samples is {samples}."
        )
    if min(k, default=1) < 1:
        raise ValueError(f"--k is {min(k)}, but must be at least 1.")
    if temperature == 0 and samples > 1:
        raise ValueError(
            f"--samples {samples} with --temperature 0 gives equal answers; take --samples 1."
        )


def _evaluate_task(
    loaded: Any,
    name: str,
    *,
    problems: int,
    samples: int,
    k: tuple[int, ...],
    max_new_tokens: int,
    temperature: float,
    template: Template,
    seed: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The table of one task, with those of its parts where it is a mixture, and its items."""
    from jaxevo.collect.lab import RolloutConfig
    from jaxevo.run.build import build_bench
    from jaxevo.run.eval_files import item_records, task_table
    from jaxevo.run.evaluate import evaluate
    from jaxevo.sampling.sampler import Sampling
    from jaxevo.tasks.mixture import PART

    at_once = min(samples, AT_ONCE)
    rollout = RolloutConfig(
        min(problems, AT_ONCE // at_once), at_once, max_new_tokens, Sampling(temperature)
    )
    bench = build_bench(
        model=loaded, task=name, rollout=rollout, seed=seed, problems=0, template=template
    )
    count = min(problems, bench.source.held_out_size)
    if not count:
        raise ValueError(f"task {name!r} has no held-out problems; give it some, or take another.")
    lab = bench.lab({"policy": loaded.params}, evaluation=True)
    tasks = [bench.source.held_out(i) for i in range(count)]
    result = evaluate(lab, tasks, samples=samples)
    items = item_records(name, result, bench.model.tokenizer)
    table = task_table(result, k=k, seed=seed)
    asked = {task.info[PART] for task in tasks} if bench.source.parts else set[str]()
    if parts := [part.name for part in bench.source.parts if part.name in asked]:
        tables = {part: task_table(result.of_part(part), k=k, seed=seed) for part in parts}
        table["parts"] = tables
    return table, items
