"""ReST-MCTS*: self-training on solutions and step values from tree search (arXiv 2406.03816)."""

from __future__ import annotations

from jaxevo.advantages import number_advantage, zero_advantage
from jaxevo.collect.tree_search import Search, search_and_label, tree_search_sizes
from jaxevo.heads import with_value_head
from jaxevo.losses.credit import broadcast
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import imitation, value_regression
from jaxevo.optimizers import adamw
from jaxevo.types import Minibatch, Objective, ParamSet, Recipe, Term, bind


def rest_mcts(
    *,
    iterations: int = 100,
    branch: int = 3,
    roll_steps: int = 2,
    explore: float = 0.4,
    unvisited: float = 0.8,
    mix: float = 0.5,
    end_gate: float = 0.9,
    step_tokens: int = 256,
    step_end: tuple[str, ...] = ("\n",),
    least_value: float = 0.2,
    paths: int = 4,
    learning_rate: float = 3e-6,
    value_learning_rate: float = 3e-6,
    value_epochs: int = 2,
    minibatches: int = 1,
) -> Recipe:
    """Searches each problem's steps under a value model; policy and value model learn from it.

    Select by V + c sqrt(2 ln N / n); roll out, V <- (1 - a) V + a v_max; back up, V = sum V_c n_c /
    sum n_c. Losses: (V - v)^2, v inferred from right ends (`infer_values`); -log p of solutions.

    Differs from the paper: the value head is linear on the hidden state, not on the logits; it
    starts at 0, untrained; the end token stands for reflection; equal siblings are merged.

    Args:
      iterations: selections per tree and round, at least 1.
      branch: proposals of an expansion, at least 1.
      roll_steps: longest roll-out, in steps of one proposal each; 0 for none.
      explore: c, weight of the bonus for rarely visited nodes.
      unvisited: bonus of a node that was never visited.
      mix: a, share of the roll-out's best value, in [0, 1].
      end_gate: a selected node of at least this value is not expanded, above 0.
      step_tokens: longest step in tokens, below --max-new-tokens, the longest solution.
      step_end: strings that end a step.
      least_value: least value of a solution that the policy learns, as the search saw it.
      paths: most solutions per problem that the policy learns.
      learning_rate: of the policy, AdamW step size per update.
      value_learning_rate: of the value model, AdamW step size per update.
      value_epochs: passes of the value model over a round's steps; the policy makes one.
      minibatches: updates per pass; a problem's rows stay together.

    References:
      arXiv 2406.03816 and its official code.
    """
    how = Search(
        iterations, branch, roll_steps, explore, unvisited, mix, end_gate, step_tokens, step_end
    )
    cut = Minibatch(by="groups", count=minibatches)
    parts = {"credit": bind(broadcast), "reduce": reducer("token_mean"), "minibatch": cut}
    value = Objective(
        name="value",
        trains="value",
        advantage=bind(number_advantage, number="value"),
        terms=(Term("value", bind(value_regression)),),
        optimizer=bind(adamw, learning_rate=value_learning_rate),
        read=("values",),
        epochs=value_epochs,
        learns=("probe",),
        **parts,
    )
    policy = Objective(
        name="policy",
        advantage=bind(zero_advantage),
        terms=(Term("imitation", bind(imitation)),),
        optimizer=bind(adamw, learning_rate=learning_rate),
        **parts,
    )
    return Recipe(
        "rest-mcts",
        bind(search_and_label, how=how, value=value, least_value=least_value, paths=paths),
        (value, policy),
        params=(ParamSet("policy"), ParamSet("value", init=bind(with_value_head))),
        sizes=bind(tree_search_sizes, how=how, paths=paths),
    )
