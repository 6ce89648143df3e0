import builtins
import io
import os
import re

import pytest
from rich.console import Console

from service.text import terminal
from service.text.grid import Grid
from service.text.terminal import FittingTable

HEADINGS = ("trial", "val_loss", "FLOPs", "tokens/s")
ROWS = (("12", "3.1234", "1.2e12", "123,456"), ("7", "3.2345", "3.4e12", "98,765"))


def test_in_a_notebook_lines_are_text(monkeypatch, capsys):
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    assert Console().is_jupyter  # so rich takes it
    terminal.console().print("a line")
    assert capsys.readouterr().out == "a line\n"


class Screen(io.StringIO):
    """What says that it is a terminal."""

    def isatty(self):
        return True


def test_a_notebook_and_a_log_get_no_table_that_is_drawn_anew(monkeypatch):
    monkeypatch.setattr("sys.stdout", Screen())
    assert terminal.console().is_terminal
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    assert Console(force_jupyter=False).is_terminal  # the kernel's stream says so
    assert not terminal.console().is_terminal
    monkeypatch.delattr(builtins, "get_ipython")
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert Console().is_terminal
    assert not terminal.console().is_terminal


def printed(renderable, width):
    file = io.StringIO()
    Console(file=file, width=width).print(renderable)
    return file.getvalue()


@pytest.mark.parametrize("width", [20, 30, 80, 200])
def test_no_figure_is_cut_or_broken_at_any_width(width):
    text = printed(Grid(HEADINGS, ROWS).as_rich("best trials [of all]"), width)
    assert "…" not in text
    words = text.split()
    for cell in (*HEADINGS, *(cell for row in ROWS for cell in row)):
        assert cell in words
    assert max(map(len, text.splitlines())) <= width


def test_a_table_that_fits_has_columns_and_another_one_pairs():
    table = FittingTable("best", HEADINGS, ROWS)
    assert printed(table, 80).splitlines()[2].split() == list(HEADINGS)
    assert printed(table, 30).splitlines()[:2] == ["best", "trial 12  val_loss 3.1234"]


COMMAND = "./hptune.sh 3 --study 'a study with a long name' --workers 2 --set optimizer.lr=0.001"
PATH = "/home/somebody/a folder with spaces/runs/reports/quickstart/report.html"
PROSE = "a trial of the base configuration takes about 12 s here (CPU, 2 threads, 42,395 tokens/s), if none is pruned"


def said(line, width, *, on_terminal=True):
    file = io.StringIO()
    terminal.say(Console(file=file, width=width, force_terminal=on_terminal, color_system=None), line)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 100, 160])
@pytest.mark.parametrize(
    ("words", "to_copy"),
    [(PROSE, ""), ("3 trials are left; to finish them: ", COMMAND), ("written: ", PATH)],
)
def test_a_line_breaks_between_words_and_never_in_what_people_paste(words, to_copy, width):
    lines = said(words + to_copy, width)
    assert " ".join(lines).split() == (words + to_copy).split()
    assert any(to_copy in line for line in lines)
    prose = lines if not to_copy else [line.removesuffix(to_copy) for line in lines]
    assert max(map(len, prose)) <= width
    assert len(lines) == 1 or width < len(words + to_copy)
    assert said(words + to_copy, width, on_terminal=False) == [words + to_copy]


def test_a_word_wider_than_the_terminal_is_left_to_it():
    assert said("x" * 90 + " y", 60) == ["x" * 90, "y"]


LONG = "lr 0.001235, optimizer muon, batch_size 32, dropout 0.1, sharpness asam, rho 0.05, decay wsd"


@pytest.mark.parametrize("width", [60, 100, 160, 200])
def test_a_cell_of_several_words_goes_over_to_further_lines_between_them(width):
    table = FittingTable("running", (*HEADINGS, "configuration"), [(*row, LONG) for row in ROWS], wordy=True)
    text = printed(table, width)
    assert max(map(len, text.splitlines())) <= width
    assert [word for word in re.split(r"\s+", text) if word in LONG.split()] == LONG.split() * 2
    assert "─" in text, "in columns"


@pytest.mark.parametrize(
    ("columns", "width"),
    [
        ("0", 80),
        ("-3", 80),
        ("²", 80),
        ("wide", 80),
        ("", 80),
        ("5", 20),
        ("30", 30),
        ("200", 200),
        (None, 80),
    ],
)
def test_columns_counts_where_it_is_a_width(monkeypatch, columns, width):
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((80, 24)))
    monkeypatch.delenv("LINES", raising=False)
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    assert terminal.console().width == width
