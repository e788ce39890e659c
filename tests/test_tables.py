import pytest

from inversion.tables import markdown_table, text_table


def test_columns_line_up_below_their_heads():
    assert text_table(("model", "right"), [("a", "7%"), ("longer", "")]) == (
        "model   right\n------  -----\na       7%\nlonger"
    )


def test_markdown_survives_bars_and_line_breaks_in_cells():
    assert markdown_table(("|e|", "b"), [("1\n2", "x")]) == "| \\|e\\| | b |\n|---|---|\n| 1 2 | x |"


@pytest.mark.parametrize("table", [text_table, markdown_table])
def test_a_row_of_another_length_is_an_error(table):
    with pytest.raises(ValueError, match=r"cells|shorter|longer"):
        table(("a", "b"), [("1",)])
