"""The README's tables are those of the code and the committed results."""

import pytest

pytestmark = pytest.mark.usefixtures("experiments_on_path")


def test_the_readme_is_as_it_would_be_written():
    from experiments.tables import README, renewed

    text = README.read_text("utf-8")
    assert renewed(text) == text, "run `python -m experiments.tables`"


def test_each_table_goes_to_its_place():
    from experiments.tables import renewed

    text = "a\n<!-- one -->\nold\n<!-- /one -->\nb\n<!-- two -->\n<!-- /two -->\n"
    made = renewed(text, {"one": lambda: "| 1 |\n", "two": lambda: r"| \\1 |"})
    assert made == (
        "a\n<!-- one -->\n| 1 |\n<!-- /one -->\nb\n<!-- two -->\n| \\\\1 |\n<!-- /two -->\n"
    )
    with pytest.raises(ValueError, match="no <!-- three -->"):
        renewed(text, {"three": str})
