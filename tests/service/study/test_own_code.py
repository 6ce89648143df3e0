import sys
from pathlib import Path

import pytest

from service.study.own_code import OwnCodeError, load_class, own_traceback, source_hash, told


def write(folder: Path, name: str, source: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    return folder


def test_a_class_is_found_in_its_folder_and_in_the_folder_of_another_study_there(tmp_path):
    one = write(tmp_path / "one", "steps.py", "class Run:\n    of = 1\n")
    two = write(tmp_path / "two", "steps.py", "class Run:\n    of = 2\n")
    first, second = load_class("steps:Run", [one]), load_class("steps:Run", [two])
    assert (first.of, second.of) == (1, 2)
    assert load_class("steps:Run", [one, two]).of == 1


def test_a_module_of_a_package_imports_its_neighbours(tmp_path):
    write(tmp_path, "mine/__init__.py", "")
    write(tmp_path, "mine/sizes.py", "SIZE = 3\n")
    write(tmp_path, "mine/deep/train.py", "from mine.sizes import SIZE\n\nclass Run:\n    size = SIZE\n")
    assert load_class("mine.deep.train:Run", [tmp_path]).size == 3


def test_what_lies_beside_it_is_taken_for_no_library(tmp_path):
    write(tmp_path, "click.py", "raise ImportError('taken from the study')\n")
    write(tmp_path, "beside.py", "import click\n\nclass Run:\n    click = click\n")
    assert load_class("beside:Run", [tmp_path]).click is sys.modules["click"]


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("no-colon", "", "run: given 'no-colon', must be module:Class, such as my_package.train:Run"),
        ("__import__('os'):Run", "", "run: given \"__import__('os'):Run\", must be module:Class"),
        ("nowhere_at_all:Run", "", "run: nowhere_at_all:Run: there is no module nowhere_at_all in "),
        ("there:Walk", "class Run: ...\n", "there.py has no class Walk, it has: Run"),
        ("there:Run", "Run = 3\n", "there.py has no class Run, it has: none"),
        ("json:Run", "class Run: ...\n", ", which Python finds first; give it another name"),
        ("model:Run", "class Run: ...\n", ", which Python finds first; give it another name"),
    ],
)
def test_a_class_that_cannot_be_had_is_told_in_a_line(tmp_path, name, source, said):
    write(tmp_path, f"{name.partition(':')[0]}.py" if source else "empty.py", source)
    with pytest.raises(OwnCodeError) as raised:
        load_class(name, [tmp_path])
    assert said in str(raised.value)
    assert raised.value.shown_above == ""


def test_a_module_that_fails_is_told_with_its_own_traceback_alone(tmp_path):
    write(tmp_path, "helper_of_mine.py", "def size():\n    return 1 / 0\n")
    write(tmp_path, "failing_one.py", "import helper_of_mine\n\nSIZE = helper_of_mine.size()\n")
    with pytest.raises(OwnCodeError) as raised:
        load_class("failing_one:Run", [tmp_path])
    said = (
        "run: failing_one:Run: cannot be imported: ZeroDivisionError: division by zero (helper_of_mine.py:2)"
    )
    assert str(raised.value) == said
    shown = raised.value.shown_above
    assert shown.startswith("Traceback (most recent call last):\n")
    assert "failing_one.py" in shown.splitlines()[1]
    assert "own_code.py" not in shown
    assert shown.endswith("ZeroDivisionError: division by zero\n")


def test_a_module_that_lacks_another_one_is_its_own_fault(tmp_path):
    write(tmp_path, "lacking.py", "import surely_not_installed\n")
    with pytest.raises(
        OwnCodeError, match="cannot be imported: ModuleNotFoundError: No module named 'surely_"
    ):
        load_class("lacking:Run", [tmp_path])


def test_of_a_file_that_is_no_python_the_line_is_shown_and_nothing_of_ours(tmp_path):
    write(tmp_path, "half_written.py", "class Run:\n    def stop(self)\n        pass\n")
    with pytest.raises(OwnCodeError, match="cannot be imported: SyntaxError: expected ':'") as raised:
        load_class("half_written:Run", [tmp_path])
    first, line, *_ = raised.value.shown_above.splitlines()
    assert first.endswith('half_written.py", line 2')
    assert line.strip() == "def stop(self)"


def test_an_exception_with_no_line_of_theirs_is_shown_whole():
    with pytest.raises(ValueError, match="invalid literal") as raised:
        int("x")
    assert told(raised.value) == "ValueError: invalid literal for int() with base 10: 'x'"
    assert __file__ in own_traceback(raised.value)


def test_the_hash_is_of_the_file_of_the_class(tmp_path):
    write(tmp_path, "hashed.py", "class Run: ...\n")
    before = source_hash(load_class("hashed:Run", [tmp_path]))
    write(tmp_path / "other", "hashed.py", "class Run: ...\n# changed\n")
    assert before != source_hash(load_class("hashed:Run", [tmp_path / "other"])) != ""


def test_of_another_study_no_neighbour_is_left(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, "constants_here.py", f"NAME = {name!r}\n")
        write(
            tmp_path / name,
            f"of_{name}.py",
            "from constants_here import NAME\n\nclass Run:\n    name = NAME\n",
        )
    assert load_class("of_one:Run", [tmp_path / "one"]).name == "one"
    assert load_class("of_two:Run", [tmp_path / "two"]).name == "two"
