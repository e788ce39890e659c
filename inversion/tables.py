"""Tables of text cells: lined up for a terminal, or in Markdown."""

from collections.abc import Sequence

Row = Sequence[str]


def text_table(head: Row, rows: Sequence[Row]) -> str:
    """Return a table whose columns line up in a fixed-width font, with a rule below its head.

    Args:
        head: c headings.
        rows: Each c cells.
    """
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def markdown_table(head: Row, rows: Sequence[Row]) -> str:
    """Return a table in Markdown; ``|`` and line breaks inside a cell do not end it.

    Args:
        head: c headings.
        rows: Each c cells.
    """
    if any(len(row) != len(head) for row in rows):
        raise ValueError(f"every row of this table needs {len(head)} cells")
    lines = [_markdown_line(head), "|" + "---|" * len(head), *(_markdown_line(row) for row in rows)]
    return "\n".join(lines)


def _markdown_line(cells: Row) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", r"\|").splitlines()) for cell in cells) + " |"
