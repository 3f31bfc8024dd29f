"""What all studies share: seeds, a verdict computed by the script, JSON and figure.

Claim, metric, thresholds and seeds of a study were committed before its first result; its settings
were chosen on tuning seeds, each try of which is listed. A mechanism study of a recipe is a folder
with `claim.json` and `study.py`, run as `python -m experiments SLUG` (`claimed`); those of
`contract_trial` are older, have their claims in their files, and are run as
`python -m experiments.contract_trial.NAME`.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from jaxevo.provenance import provenance

HERE = Path(__file__).parent
TRIALS = HERE / "contract_trial" / "results"
SEEDS = (0, 1, 2)  # for reporting; tuning uses others
MORE_SEEDS = tuple(range(20, 28))  # of a study that is repeated
Run = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Study:
    """One mechanism study.

    name: of its module and its results. claim: one sentence. settings: all numbers of the runs.
    target: thresholds by name. tried: the settings that were tried on tuning seeds, and what came
    of them. run: `(seed) -> one result per arm`, JSON values with `arm` and `seed`. verdict:
    `(runs) -> {part of the claim: whether it holds}`. draw: `(axes, runs) -> None`; panels: how
    many axes it wants side by side. seeds: for reporting. metric: what is measured. folder: of a
    mechanism study, where its result.json and figure.png belong.
    """

    name: str
    claim: str
    settings: Mapping[str, Any]
    target: Mapping[str, float]
    tried: Sequence[Mapping[str, Any]]
    run: Callable[[int], Sequence[Run]]
    verdict: Callable[[Sequence[Run]], dict[str, bool]]
    draw: Callable[[Any, Sequence[Run]], None]
    panels: int = 1
    seeds: Sequence[int] = SEEDS
    metric: str = ""
    folder: Path | None = None

    @property
    def command(self) -> str:
        module = f"experiments.contract_trial.{self.name}"
        return (
            f"python -m {module}" if self.folder is None else f"python -m experiments {self.name}"
        )

    @property
    def result(self) -> Path:
        return TRIALS / f"{self.name}.json" if self.folder is None else self.folder / "result.json"

    def figure(self, result: Path) -> Path:
        """Where the figure beside a result belongs."""
        own = result.with_suffix(".png")
        return own if self.folder is None else own.with_name(own.name.replace("result", "figure"))


def claimed(folder: Path, **parts: Any) -> Study:
    """The study of a folder, whose claim, metric, threshold and seeds are those of `claim.json`.

    Args:
      folder: of the study, named as the recipe with underscores.
      parts: the other fields of `Study`.
    """
    said = json.loads((folder / "claim.json").read_text())
    return Study(
        name=folder.name.replace("_", "-"),
        claim=said["claim"],
        metric=said["metric"],
        target=said["threshold"],
        seeds=said["seeds"]["report"],
        folder=folder,
        **parts,
    )


def pairs(runs: Sequence[Run], one: str, other: str) -> list[tuple[Run, Run]]:
    """The runs of two arms, seed by seed."""
    arms = {(r["arm"], r["seed"]): r for r in runs}
    return [(arms[one, s], arms[other, s]) for s in sorted({r["seed"] for r in runs})]


def gain(run: Run) -> float:
    """Accuracy at the end less that at the start."""
    return run["curve"][-1]["accuracy"] - run["curve"][0]["accuracy"]


def styled(
    runs: Sequence[Run], colors: Mapping[str, str], labels: Mapping[str, str] | None = None
) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Each run with its line's style: a color by arm, and a label, the arm's own name unless
    another is given, with the first seed."""
    for run in runs:
        label = (labels or {}).get(run["arm"], run["arm"])
        own = label if run["seed"] == runs[0]["seed"] else None
        yield run, {"color": colors[run["arm"]], "label": own, "linewidth": 1.2}


def plot_reading(axes: Any, run: Run, name: str, **style: Any) -> None:
    """A number of each reading against the rollouts until then."""
    curve = run["curve"]
    axes.plot([c["rollouts"] for c in curve], [c[name] for c in curve], **style)


def lower_bound(values: Sequence[float], *, level: float = 0.95) -> float:
    """One-sided confidence bound of a mean: mean − t s / √n, Student's t of n − 1 degrees."""
    n, spread = len(values), float(np.std(values, ddof=1))
    return float(np.mean(values)) - float(stats.t.ppf(level, n - 1)) * spread / n**0.5


def bounded(
    differences: Callable[[Sequence[Run]], Mapping[str, Sequence[float]]],
    target: Mapping[str, float],
) -> Callable[[Sequence[Run]], dict[str, bool]]:
    """The verdict by lower bounds of means: `target` is a bound and its level, in this order."""
    above, level = target.values()

    def verdict(runs: Sequence[Run]) -> dict[str, bool]:
        found = differences(runs)
        return {part: lower_bound(values, level=level) > above for part, values in found.items()}

    return verdict


def repeated(
    first: Study,
    *,
    claim: str,
    target: Mapping[str, float],
    differences: Callable[[Sequence[Run]], Mapping[str, Sequence[float]]],
    **changes: Any,
) -> Study:
    """A study once more, on new seeds and by means over them, with its first settings.

    Args:
      first: whose settings, runs and figure these are, but for `changes`.
      claim, target: as of every study; the target is a bound and its level, in this order.
      differences: `(runs) -> {part of the claim: one number per seed}`; a part holds where the
        lower confidence bound of the mean lies above the bound.
    """
    verdict = bounded(differences, target)
    more = {"name": f"{first.name}_repeated", "tried": (), "seeds": MORE_SEEDS, **changes}
    return dataclasses.replace(first, claim=claim, target=target, verdict=verdict, **more)


def main(study: Study, argv: Sequence[str] | None = None) -> int:
    """Runs every seed, computes the verdict, writes result and figure."""
    parser = argparse.ArgumentParser(description=study.claim)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(study.seeds))
    parser.add_argument("--out", type=Path, default=study.result)
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time, a thread each")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="keep each seed's runs here, and take those that are here: a series may be broken off",
    )
    args = parser.parse_args(argv)
    origin, by_seed = provenance(study.name), {}
    for seed in args.seeds if args.keep else ():
        if (path := _kept(args.keep, seed)).exists():
            by_seed[seed] = _taken(path, study)
    rest = [seed for seed in args.seeds if seed not in by_seed]
    with contextlib.ExitStack() as stack:
        over = map if args.jobs == 1 else stack.enter_context(_threads(args.jobs)).map
        done = over(functools.partial(_timed, study.run), rest)
        for seed, (found, seconds) in zip(rest, done, strict=True):
            by_seed[seed] = {
                "settings": study.settings,
                **origin,
                "seconds": seconds / args.jobs,  # of the machine
                "runs": found,
            }
            if args.keep:
                args.keep.mkdir(parents=True, exist_ok=True)
                _kept(args.keep, seed).write_text(json.dumps(by_seed[seed], indent=1) + "\n")
            for one in found:
                told = {k: v for k, v in one.items() if isinstance(v, (str, int, float))}
                print(json.dumps(told), flush=True)
            print(f"seed {seed}: {seconds:.0f} s", flush=True)
    runs = [one for seed in args.seeds for one in by_seed[seed]["runs"]]
    verdict = study.verdict(runs)
    result = {
        **origin,
        "claim": study.claim,
        **({"metric": study.metric} if study.metric else {}),
        "command": study.command,
        "settings": study.settings,
        "target": study.target,
        "verdict": verdict,
        "met": all(verdict.values()),
        "configurations_tried": len(study.tried),
        "tried_on_tuning_seeds": study.tried,
        "seconds": sum(by_seed[seed]["seconds"] for seed in args.seeds),
        "commit_by_seed": {seed: by_seed[seed]["commit"] for seed in args.seeds},
        "runs": runs,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    with _figure(study.figure(args.out), study.panels) as axes:
        study.draw(axes, runs)
    print(verdict)
    return 0


@contextlib.contextmanager
def _threads(jobs: int) -> Iterator[concurrent.futures.Executor]:
    """What is compiled for one seed serves the others; those that are not begun are given up with
    one that fails."""
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _kept(folder: Path, seed: int) -> Path:
    return folder / f"seed-{seed}.json"


def _taken(path: Path, study: Study) -> Any:
    """What an earlier call kept of a seed.

    Raises:
      ValueError: when it was made by another study or under other settings.
    """
    kept = json.loads(path.read_text())
    if (kept["name"], kept["settings"]) != (study.name, json.loads(json.dumps(study.settings))):
        raise ValueError(
            f"{path} was made by {kept['name']!r} or under other settings than these. Name another "
            "folder, or delete it."
        )
    return kept


def _timed(run: Callable[[int], Sequence[Run]], seed: int) -> tuple[list[Run], float]:
    start = time.perf_counter()
    return list(run(seed)), time.perf_counter() - start


@contextlib.contextmanager
def _figure(path: Path, panels: int) -> Iterator[Any]:
    """Axes (one, or an array of several side by side) of a figure that is saved at the end."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    size = (6.4 if panels == 1 else 4.4 * panels, 3.8)
    figure, axes = plt.subplots(1, panels, figsize=size, layout="constrained")
    yield axes
    for one in figure.axes:
        one.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
