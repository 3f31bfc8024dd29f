"""From rewards to advantages, on the whole batch.

`best_of_group`, `group_relative`, `leave_one_out`, `role_baselines`, `undecided_chance`,
`zero_variance_share` and, by token, `at_last`, `discriminant_coefficients`,
`generalised_advantage`, `token_return`, `whiten` are pure functions on arrays; those whose names
end with `advantage`, and `return_target`, are what an `Objective` takes; so are `no_advantage` and
`untaught`, as `idle`.
"""

from jaxevo.advantages.discriminant import discriminant_coefficients
from jaxevo.advantages.group import (
    best_of_group,
    group_relative,
    leave_one_out,
    undecided_chance,
    zero_variance_share,
)
from jaxevo.advantages.objective import (
    baseline_advantage,
    best_advantage,
    entropy_band_advantage,
    group_advantage,
    leave_one_out_advantage,
    no_advantage,
    number_advantage,
    return_target,
    temporal_advantage,
    untaught,
    weighed_advantage,
    whitened_return_advantage,
    zero_advantage,
)
from jaxevo.advantages.role import role_baselines
from jaxevo.advantages.temporal import at_last, generalised_advantage, token_return, whiten

__all__ = [
    "at_last",
    "baseline_advantage",
    "best_advantage",
    "best_of_group",
    "discriminant_coefficients",
    "entropy_band_advantage",
    "generalised_advantage",
    "group_advantage",
    "group_relative",
    "leave_one_out",
    "leave_one_out_advantage",
    "no_advantage",
    "number_advantage",
    "return_target",
    "role_baselines",
    "temporal_advantage",
    "token_return",
    "undecided_chance",
    "untaught",
    "weighed_advantage",
    "whiten",
    "whitened_return_advantage",
    "zero_advantage",
    "zero_variance_share",
]
