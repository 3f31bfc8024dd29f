"""From rewards to advantages, on the whole batch.

`group_relative`, `leave_one_out`, `role_baselines` and `zero_variance_share` are pure functions on
arrays; `baseline_advantage`, `group_advantage`, `leave_one_out_advantage`, `number_advantage`,
`zero_advantage` and `no_advantage` are what an `Objective` takes.
"""

from jaxevo.advantages.group import group_relative, leave_one_out, zero_variance_share
from jaxevo.advantages.objective import (
    baseline_advantage,
    group_advantage,
    leave_one_out_advantage,
    no_advantage,
    number_advantage,
    zero_advantage,
)
from jaxevo.advantages.role import role_baselines

__all__ = [
    "baseline_advantage",
    "group_advantage",
    "group_relative",
    "leave_one_out",
    "leave_one_out_advantage",
    "no_advantage",
    "number_advantage",
    "role_baselines",
    "zero_advantage",
    "zero_variance_share",
]
