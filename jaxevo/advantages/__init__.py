"""From rewards to advantages, on the whole batch.

`group_relative`, `leave_one_out` and `zero_variance_share` are pure functions on `[N]` arrays;
`group_advantage`, `leave_one_out_advantage` and `zero_advantage` are the same for a `Batch`.
"""

from jaxevo.advantages.group import group_relative, leave_one_out, zero_variance_share
from jaxevo.advantages.objective import group_advantage, leave_one_out_advantage, zero_advantage

__all__ = [
    "group_advantage",
    "group_relative",
    "leave_one_out",
    "leave_one_out_advantage",
    "zero_advantage",
    "zero_variance_share",
]
