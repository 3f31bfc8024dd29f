"""Where problems come from: task sources by name or by file."""

from jaxevo.tasks.arithmetic import arithmetic, plain, plain_task
from jaxevo.tasks.draw import task_source
from jaxevo.tasks.files import file_source
from jaxevo.tasks.mixture import mixture
from jaxevo.tasks.names import load_task
from jaxevo.tasks.records import Columns

__all__ = [
    "Columns",
    "arithmetic",
    "file_source",
    "load_task",
    "mixture",
    "plain",
    "plain_task",
    "task_source",
]
