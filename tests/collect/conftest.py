"""Programs of a few runs each: quick to compile, compared among themselves."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_to_compile):
    pass
