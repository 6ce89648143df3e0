"""Private names of third parties stand in one module each, which a test holds against the installed version."""

import ast

import pytest

from tests.conftest import ROOT

ADAPTERS = {
    "model/hardware/foreach.py",
    "service/storage/dashboard_private.py",
    "service/storage/optuna_private.py",
}
DOCUMENTED = {"os._exit"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def foreign_private_names(source):
    """Private modules that are imported, and private attributes of what is neither `self` nor made in the source."""
    tree = ast.parse(source)
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if any(map(is_private, alias.name.split(".")))}
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            found |= {f"from {node.module}"} if any(map(is_private, names)) else set()
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            written = ast.unparse(node)
            if ast.unparse(node.value) not in ("self", "cls", "super()") and written not in DOCUMENTED:
                found.add(written)
    return found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("study._storage.get_trial(1)", {"study._storage"}),
        ("self._study._study_id", {"self._study._study_id"}),
        ("torch._foreach_mul(a, b)", {"torch._foreach_mul"}),
        ("from optuna_dashboard._note import split_body", {"from optuna_dashboard._note"}),
        ("from optuna_dashboard import _note", {"from optuna_dashboard"}),
        ("import optuna.storages._rdb", {"optuna.storages._rdb"}),
        ("self._mine; super().__init__(); os._exit(1)", set()),
        ("def _load(): ...\nrun._load()", set()),
    ],
)
def test_it_knows_a_private_name_when_it_sees_one(source, found):
    assert foreign_private_names(source) == found


def test_private_names_of_others_stand_in_their_adapters():
    files = [path for folder in ("model", "service") for path in (ROOT / folder).rglob("*.py")]
    found = {str(path.relative_to(ROOT)): foreign_private_names(path.read_text()) for path in files}
    assert {path for path, names in found.items() if names} == ADAPTERS, found
