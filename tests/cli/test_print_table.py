"""Tables where they are piped: a row a line, whatever its cells hold."""

import pytest
from rich.text import Text

from materia.cli.shared import print_table


@pytest.mark.parametrize("path", ["/data/" + "deep/" * 600 + "clips", "two\nlines", "[red]markup[/]", "a b " * 400])
def test_a_piped_row_is_a_line_and_its_path_is_whole(capsys, path):
    print_table(["what", "found"], [["a", path], ["b", Text("fine", "green")]])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert " ".join(path.split()) in " ".join(lines[1].split())
