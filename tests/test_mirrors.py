"""Every module has a test module of its own, at its own place under `tests/`."""

from pathlib import PurePath

from tests.conftest import ROOT

ELSEWHERE = {
    "model/errors.py": "tests/model/test_command_line.py",  # as commands show them
    "model/measurement/evaluation_record.py": "tests/service/report/record/test_measured.py",  # fields
    "service/report/figures/interactive.py": "tests/service/report/figures/test_drawing.py",  # the two ways
    "service/report/figures/static.py": "tests/service/report/figures/test_drawing.py",  # beside each other
    "service/study/run_config.py": "tests/service/study/test_own_run.py",  # protocols
    "service/trials/contract.py": "tests/service/trials/test_own_run.py",  # protocols
    "service/trials/own_evaluation.py": "tests/service/trials/test_own_run.py",  # what a run yields
    "service/search/problem.py": "tests/service/search/test_process.py",  # fields
    "service/text/tables.py": "tests/service/report/page/test_tables.py",  # fields
}
"""What is tested together with something else, and where."""


def mirror(module: str) -> str:
    path = PurePath(module)
    return str(PurePath("tests") / path.parent / f"test_{path.stem.strip('_')}.py")


def test_every_module_has_its_mirror():
    modules = {
        str(path.relative_to(ROOT))
        for room in ("model", "service")
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert modules >= ELSEWHERE.keys(), "a module that is listed is gone"
    mirrors = {module: ELSEWHERE.get(module, mirror(module)) for module in modules}
    assert [
        f"{module}: {test}" for module, test in sorted(mirrors.items()) if not (ROOT / test).is_file()
    ] == []
    own = [module for module in ELSEWHERE if (ROOT / mirror(module)).is_file()]
    assert own == [], "has a mirror, and need not be listed"
