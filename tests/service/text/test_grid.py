import io

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from service.text.grid import Grid

MARKDOWN = MarkdownIt("commonmark").enable("table")
CELL = st.text("abc0123456789.%–", min_size=1, max_size=8)


@st.composite
def grids(draw):
    columns = draw(st.integers(1, 5))
    row = st.tuples(*[CELL] * columns)
    return Grid(draw(row), tuple(draw(st.lists(row, max_size=4))))


@given(grids())
def test_markdown_shows_every_cell_in_its_place(grid):
    tokens = MARKDOWN.parse(grid.as_markdown())
    cells = [token.content for token in tokens if token.type == "inline"]
    assert cells == [cell for row in (grid.headings, *grid.rows) for cell in row]
    assert sum(token.type == "tr_open" for token in tokens) == 1 + len(grid.rows)


def shown(grid, width):
    console = Console(width=width, file=io.StringIO())
    console.print(grid.as_rich("title"))
    return console.file.getvalue()


def test_on_a_terminal_configurations_stand_below_each_with_its_row():
    grid = Grid(("trial", "loss"), (("3", "1.5"), ("7", "1.6")), configurations=("lr 0.1", "lr 0.2"))
    text = shown(grid, 80)
    assert "title" in text
    assert [line.split() for line in text.splitlines() if line.strip()][-2:] == [
        ["trial", "3:", "lr", "0.1"],
        ["trial", "7:", "lr", "0.2"],
    ]
    assert text.index("1.6") < text.index("lr 0.1")


def test_on_a_narrow_terminal_no_value_is_lost():
    grid = Grid(("trial", "a long heading"), (("3", "1.2345678"),))
    assert "a long heading 1.2345678" in " ".join(shown(grid, 20).split())
