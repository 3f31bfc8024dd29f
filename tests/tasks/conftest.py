"""What a command line says of a task that cannot be used."""

import pytest

from jaxevo.run.cli import main


@pytest.fixture
def refused(capsys):
    """refused(*arguments) -> the one line on stderr of a command that ends with status 2."""

    def ask(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("jaxevo: ")
        assert captured.err.count("\n") == 1, captured.err
        assert "Traceback" not in captured.err
        return captured.err

    return ask
