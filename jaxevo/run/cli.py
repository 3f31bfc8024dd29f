"""The command line: `jaxevo COMMAND ...`."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence

from jaxevo.cache import cache_dir
from jaxevo.run.arguments import UsageError, fail, options_class, parse, pick
from jaxevo.run.pages import use_huge_pages

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
COMMANDS = {
    "train": ("jaxevo.run.commands", "train", "improve a model: jaxevo train RECIPE [options]"),
    "eval": ("jaxevo.run.eval_command", "evaluate_model", "pass@k, maj@k: jaxevo eval RUN|MODEL"),
    "compare": (
        "jaxevo.run.compare",
        "compare",
        "side by side: RUN RUN ..., or RECIPE RECIPE ... --budget N",
    ),
    "sample": ("jaxevo.run.commands", "sample", "print sampled answers to a prompt"),
    "plan": ("jaxevo.run.plan", "plan", "what a training run would need: jaxevo plan RECIPE [...]"),
    "export": ("jaxevo.run.export", "export", "write a model as a Hugging Face directory"),
    "check-logp": ("jaxevo.run.check_logp", "check_logp", "sampler against trainer log-probs"),
    "recipes": ("jaxevo.run.commands", "recipes", "list the recipes"),
    "tasks": ("jaxevo.run.tasks", "tasks", "list the tasks, or show problems of one"),
    "verifiers": ("jaxevo.run.commands", "verifiers", "list the verifiers"),
    "new-recipe": ("jaxevo.run.new_recipe", "new_recipe", "write a recipe to start from"),
    "doctor": ("jaxevo.run.doctor", "doctor", "check versions, devices, disk, hosts"),
    "report": ("jaxevo.run.commands", "report", "write report.html of a run folder"),
    "demo": ("jaxevo.run.commands", "demo", "a model teaches itself sums, in minutes"),
    "pretrain-toy": ("jaxevo.run.commands", "pretrain_toy", "make the character-level toy model"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 2 for an input that cannot be used."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, rest = args[0], args[1:]
    if name not in COMMANDS:
        return fail(f"unknown command {name!r}; choose one of {', '.join(COMMANDS)}.")
    if argv is None:  # the process is this command's own
        use_huge_pages()
    module, function, summary = COMMANDS[name]
    _keep_compiled_programs()
    try:
        command = getattr(importlib.import_module(module), function)
        if name == "compare" and any(arg.split("=")[0] == "--budget" for arg in rest):
            return _compare_recipes(rest)
        if name in ("train", "plan"):
            return _with_recipe(name, command, rest)
        return call(command, rest, prog=f"jaxevo {name}", summary=summary)
    except (UsageError, ValueError) as fault:
        return fail(" ".join(str(fault).split()))
    except BrokenPipeError:  # who reads has enough: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as fault:
        fail(_said(fault))
        return 1 if fault.errno in FULL else 2


def _said(fault: OSError) -> str:
    """One line: the system's own words, the file, and what to do."""
    if not fault.strerror:
        return " ".join(str(fault).split())
    place = f": {fault.filename}" if fault.filename else ""
    if fault.errno in FULL:
        return f"{fault.strerror}{place}. Make room; the same command continues a run."
    if fault.errno in FORBIDDEN:
        return f"{fault.strerror}{place}. Give a place that you may write, or change its rights."
    return f"{fault.strerror}{place}."


def _keep_compiled_programs() -> None:
    """Lets later runs on this machine reuse compiled programs, unless JAX was told where to."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = cache_dir() / "xla"
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def call(command: Callable[..., int], args: Sequence[str], *, prog: str, summary: str) -> int:
    """Parses a command function's own options and calls it."""
    options = parse(options_class(command), args, prog=prog, description=summary)
    return command(**pick(options, command))


def usage() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, _, summary) in COMMANDS.items()]
    return "\n".join(
        ["usage: jaxevo COMMAND [options]", "", *lines, "", "jaxevo COMMAND --help tells more."]
    )


def _compare_recipes(args: Sequence[str]) -> int:
    """`compare` of recipes that are still to be run."""
    from jaxevo.run.budget import compare_recipes, shared_options

    shared = shared_options()
    options = parse(
        options_class(compare_recipes, shared),
        args,
        prog="jaxevo compare",
        description=(inspect.getdoc(compare_recipes) or "").split("\n")[0],
    )
    return compare_recipes(**pick(options, compare_recipes), **pick(options, shared))


def _with_recipe(name: str, command: Callable[..., int], args: Sequence[str]) -> int:
    """A command that takes a recipe, its options and those of a run."""
    from jaxevo.recipes import recipe_factory, recipe_names
    from jaxevo.run.options import RunOptions, run_folder

    if not args or args[0] in ("-h", "--help"):
        print(f"usage: jaxevo {name} {{{','.join(recipe_names())}}} [options]")
        return 0
    factory = recipe_factory(args[0])
    switches = _SWITCHES[name]
    options = parse(
        options_class(RunOptions, factory, switches),
        args[1:],
        prog=f"jaxevo {name} {args[0]}",
        description=(inspect.getdoc(factory) or "").split("\n")[0],
    )
    run = RunOptions(**pick(options, RunOptions))
    if "out" not in {a.split("=")[0].lstrip("-") for a in args}:
        run = dataclasses.replace(run, out=run_folder(args[0], run.task, run.seed))
    return command(factory(**pick(options, factory)), run, **pick(options, switches))


def _train_switches(*, dry_run: bool = False) -> None:
    """Switches of the train command.

    Args:
      dry_run: print the resolved configuration and stop.
    """


def _plan_switches(*, memory_gb: float = 0.0) -> None:
    """Switches of the plan command.

    Args:
      memory_gb: plan for a device with so many free GB; 0 for what is free here.
    """


_SWITCHES: dict[str, Callable[..., None]] = {"train": _train_switches, "plan": _plan_switches}


if __name__ == "__main__":
    sys.exit(main())
