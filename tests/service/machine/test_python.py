import subprocess

from service.machine.python import python
from tests.conftest import ROOT


def test_children_take_no_module_from_the_current_folder(hostile):
    asked = subprocess.run(
        **python("-c", "import click, model, service, sqlalchemy; print(model.__file__)"),
        cwd=hostile, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert asked.stdout.strip() == str(ROOT / "model" / "__init__.py")


def test_children_have_the_packages_of_a_loaded_module_behind_the_project(hostile, monkeypatch, tmp_path):
    packages = tmp_path / "packages"
    (packages / "model").mkdir(parents=True)
    (packages / "model" / "__init__.py").touch()
    (packages / "from_a_module.py").touch()
    monkeypatch.setenv("PYTHONPATH", f"{packages}:")
    asked = subprocess.run(
        **python("-c", "import from_a_module, click, model; print(model.__file__)"),
        cwd=hostile, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert asked.stdout.strip() == str(ROOT / "model" / "__init__.py")


def test_every_python_of_ours_is_started_in_one_way():
    starts = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in (ROOT / "service").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "sys.executable" in line
    ]
    # a node of a cluster has to find the project before it can import from it
    assert sorted(start.partition(":")[0] for start in starts) == [
        "service/cluster/task.py",
        "service/machine/python.py",
    ]
    assert all('[sys.executable, "-P", *arguments' in start for start in starts)
