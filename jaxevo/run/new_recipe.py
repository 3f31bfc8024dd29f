"""`jaxevo new-recipe NAME`: a recipe to start from, which trains as it stands."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

TEMPLATE = '''"""NAME: what the method is called (arXiv 0000.00000)."""

from __future__ import annotations

from jaxevo.advantages import group_advantage
from jaxevo.collect.waves import single_turn
from jaxevo.losses.credit import broadcast, refuse_uncorrectable
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import policy_gradient
from jaxevo.optimizers import adamw
from jaxevo.types import Objective, Recipe, Term, bind


def NAME(*, learning_rate: float = 1e-5, clip: float = 0.2) -> Recipe:
    """One line that says what it does, for `jaxevo recipes` and the README's table.

    Formulas here; then what differs from the paper, and why.

    Args:
      learning_rate: AdamW step size per update.
      clip: how far the ratio to the old policy may leave 1 before its gradient stops.

    References:
      arXiv 0000.00000, equation 0.
    """
    objective = Objective(
        name="policy",  # the rows that `collect` files under this name train it
        advantage=bind(group_advantage),  # once, on the whole batch: [N]
        credit=bind(broadcast),  # after the frozen forward passes: {stream: {name: [N, A]}}
        terms=(Term("policy", bind(policy_gradient, clip_low=clip, clip_high=clip)),),
        reduce=reducer("token_mean"),  # per-token values -> (numerator, denominator)
        optimizer=bind(adamw, learning_rate=learning_rate),
        check=bind(refuse_uncorrectable),  # on the host: rows it must not learn from
    )
    # `collect` is ordinary Python with the lab's instruments; write your own (lab, state, memory).
    return Recipe("TITLE", collect=bind(single_turn), objectives=(objective,))
'''


def new_recipe(*, name: str, folder: str = "") -> int:
    """Writes the skeleton of a recipe.

    Args:
      name: of the method, as on the command line: lower-case letters, digits and hyphens.
      folder: where to write it; empty for the package's own recipes, where `jaxevo train` finds it.
    """
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(module):
        raise ValueError(
            f"{name!r} cannot name a recipe; use lower-case letters, digits and single hyphens, "
            "beginning with a letter."
        )
    target = Path(folder) if folder else Path(__file__).parents[1] / "recipes"
    path = target / f"{module}.py"
    if path.exists():
        raise FileExistsError(f"{path} is there already; choose another name.")
    if not target.is_dir():
        raise FileNotFoundError(f"there is no folder {target}; make it first.")
    path.write_text(TEMPLATE.replace("NAME", module).replace("TITLE", name))
    print(f"{path}\nTry it: jaxevo train {name} --model toy --task add1 --learning-rate 2e-4")
    print("Then give it a row in tests/recipes/cases.py and a study in experiments/.")
    return 0
