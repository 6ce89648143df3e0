import errno
import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.command_line import LONGEST, MOST_FAULTS, faults_in_one_line, one_line
from model.errors import ConfigError, UserError, together


@given(st.text(max_size=3 * LONGEST))
def test_whatever_it_is_given_it_is_one_printable_line(text):
    line = one_line(text)
    assert line.isprintable()
    # an escaped character takes up to ten: `\U0010ffff`
    assert len(line) <= 10 * (LONGEST + len(" ... "))


@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp", "Zs"]), max_size=LONGEST))
def test_a_text_that_can_be_shown_is_left_as_it_is(text):
    assert one_line(text) == text


def test_of_a_long_text_the_middle_goes_and_what_would_command_a_terminal_is_escaped():
    assert one_line("a" * LONGEST + "b" * LONGEST) == "a" * (LONGEST // 2) + " ... " + "b" * (LONGEST // 2)
    assert one_line("a\x1b[31m\r\nb\u202e") == r"a\x1b[31m b\u202e"


class AwayError(UserError):
    exit_status = 75


@pytest.mark.parametrize(
    ("fault", "status", "line"),
    [
        (ConfigError("lr: given 'x'\nallowed: y"), 2, "error: lr: given 'x' allowed: y\n"),
        (AwayError("the storage is away"), 75, "error: the storage is away\n"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a"), 2, "error: a: No such file or directory\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: No space left on device\n"),
        (OSError("odd"), 2, "error: odd\n"),
        (OSError(), 2, "error: OSError\n"),
    ],
)  # fmt: skip
def test_what_the_user_can_mend_ends_the_program_with_one_line(capsys, fault, status, line):
    with pytest.raises(SystemExit) as ended, faults_in_one_line():
        raise fault
    assert (ended.value.code, *capsys.readouterr()) == (status, "", line)


@pytest.mark.parametrize(
    ("others", "last"), [(1, "error: fault 1\n"), (9, "error: fault 9\n"), (12, "error: and 3 more\n")]
)
def test_several_faults_are_a_line_each_and_those_beyond_ten_are_counted(capsys, others, last):
    fault = together([ConfigError(f"fault {i}") for i in range(others + 1)])
    with pytest.raises(SystemExit), faults_in_one_line():
        raise fault
    lines = capsys.readouterr().err.splitlines(keepends=True)
    assert lines[:2] == ["error: fault 0\n", "error: fault 1\n"]
    assert (len(lines), lines[-1]) == (min(others, MOST_FAULTS) + 1, last)


@pytest.mark.parametrize(
    "fault", [BrokenPipeError(errno.EPIPE, "Broken pipe"), ValueError("a fault of ours")]
)
def test_anything_else_goes_on(fault):
    with pytest.raises(type(fault)) as raised, faults_in_one_line():
        raise fault
    assert raised.value is fault


def test_a_character_that_the_terminal_lacks_is_escaped(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with faults_in_one_line():
        print("–")
        sys.stdout.flush()
    assert written.getvalue() == b"\\u2013\n"
