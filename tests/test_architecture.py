"""The layout keeps its promises: import direction, cheap imports, no method in shared code."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "jaxevo"
HEAVY = ("transformers", "tensorflow", "torch", "orbax", "flax", "tokenizers", "tyro", "rich")

# Who may import whom; a package may always import itself and `types`.
LEAVES = {"kernels", "optimizers", "cache", "heads", "flow", "keys", "names", "base"}
PARTS = {"losses", "advantages", "rewards", "tasks", "teachers", "envs"}
ALLOWED = {
    "types": {"bound"},
    "bound": set(),
    "base": set(),
    "kernels": set(),
    "optimizers": set(),
    "heads": {"flow"},
    "flow": set(),
    "keys": set(),
    "names": set(),
    "cache": set(),
    "provenance": set(),
    **{part: LEAVES | PARTS for part in PARTS},
    "losses": LEAVES | PARTS | {"parallel"},  # heads on a mesh
    "collect": LEAVES | PARTS,
    "objectives": LEAVES | PARTS,
    "recipes": LEAVES | PARTS | {"collect", "objectives"},
    "parallel": {"kernels"},
    "models": {"cache", "heads", "kernels", "parallel"},
    "sampling": {"kernels", "keys", "parallel", "models", "base"},
    "state": {"base"},
    "step": {"base", "collect", "losses", "state"},
    "run": {
        "base",
        "cache",
        "collect",
        "kernels",
        "models",
        "optimizers",
        "parallel",
        "rewards",
        "sampling",
        "state",
        "step",
        "tasks",
    },
}
# Command lines alone look recipes up, or say where a result comes from.
ALLOWED_FILES = {
    "run/budget.py": {"recipes"},
    "run/cli.py": {"recipes"},
    "run/commands.py": {"recipes"},
    "kernels/bench.py": {"provenance"},
    "run/eval_command.py": {"provenance"},
}


def sources():
    return [p for p in sorted(PACKAGE.rglob("*.py")) if "__pycache__" not in p.parts]


def imported(path):
    """The jaxevo sub-packages that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (n.split(".")[1] for n in names if n.startswith("jaxevo."))


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    relative = path.relative_to(PACKAGE)
    own = relative.parts[0].removesuffix(".py")
    if own == "__init__":
        return
    allowed = ALLOWED[own] | {own, "types"} | ALLOWED_FILES.get(str(relative), set())
    if own == "recipes" and relative.name != "__init__.py":
        allowed -= {"recipes"}  # recipes never import recipes
    assert set(imported(path)) <= allowed


# Words that are recipes' names and mean something else there: a Greek letter.
OTHERWISE = {"rewards/novelty.py": {"delta"}}


def recipe_words():
    return [p.stem for p in (PACKAGE / "recipes").glob("*.py") if p.stem != "__init__"]


def test_no_method_is_named_in_shared_code():
    """Neither in code nor in strings; prose in docstrings and comments may cite a method."""
    names = re.compile(rf"(?<![a-z])({'|'.join(recipe_words())})(?![a-z])")
    for path in sources():
        relative = str(path.relative_to(PACKAGE))
        if relative.startswith("recipes/") or relative == "run/commands.py":
            continue
        tree = ast.parse(path.read_text())
        docs = {ast.get_docstring(n, clean=False) for n in ast.walk(tree) if hasattr(n, "body")
                and isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef))}  # fmt: skip
        for node in ast.walk(tree):
            text = getattr(node, "id", None) or getattr(node, "attr", None)
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = None if node.value in docs else node.value
            found = text and names.search(text.lower())
            if found and found.group() in OTHERWISE.get(relative, ()):
                continue
            assert not found, f"{relative}:{node.lineno} names {found.group()}"


@pytest.mark.parametrize(
    "module",
    ["jaxevo", "jaxevo.losses", "jaxevo.advantages", "jaxevo.kernels", "jaxevo.types",
     "jaxevo.rewards", "jaxevo.tasks", "jaxevo.teachers", "jaxevo.envs", "jaxevo.step",
     "jaxevo.recipes.grpo"],
)  # fmt: skip
def test_importing_the_parts_is_cheap(module):
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_kernels_must_be_imported_as_a_part_of_the_package():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import kernels"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "import it as `jaxevo.kernels`" in done.stderr


def test_recipes_stay_small():
    for path in (PACKAGE / "recipes").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 150, path.name
