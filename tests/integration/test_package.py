"""The wheel, built and installed into an environment of its own that sees the libraries of this one."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from service.storage.earlier_trials import RECORDED
from tests.conftest import ROOT, tiny_study

pytestmark = pytest.mark.integration
SOURCES = ("hptune", "model", "service", "studies")
FILES = (
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "train_config.yaml",
    "requirements.lock",
)
ASKED = """
import hptune, sys
study = hptune.open_study(sys.argv[1])
assert study.frame()["val_loss"].notna().sum() == 1, study.frame()
print(hptune.__file__)
print(study.generate("the", number=1)[0])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The environment's folder."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index", "--quiet"]
    subprocess.run(
        [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", folder / "wheel", source],
        check=True, timeout=300,
    )  # fmt: skip
    (wheel,) = (folder / "wheel").iterdir()
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    (packages,) = environment.glob("lib/python3*/site-packages")
    subprocess.run([*pip, "--python", environment / "bin" / "python", "install", *offline, wheel], check=True)
    (packages / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment


def call(installed: Path, *words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HPTUNE_", "PYTHON"))}
    return subprocess.run(
        [installed / "bin" / str(words[0]), *map(str, words[1:])],
        cwd=cwd, env={**kept, "HPTUNE_DEVICE": "cpu", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def test_the_wheel_has_code_and_shipped_files_and_no_more(installed):
    (wheel,) = (installed.parent / "wheel").iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"hptune", "model", "service"}
    shipped = {name for name in names if name.startswith("hptune/share/")}
    assert {"hptune/share/train_config.yaml", "hptune/share/requirements.lock"} < shipped
    studies = {path.parent.name for path in ROOT.glob("studies/*/study.yaml")}
    assert {name.split("/")[3] for name in shipped if name.endswith("/study.yaml")} == studies
    assert {f"hptune/share/{folder}/runs.json" for folder in RECORDED} < shipped  # what a search begins with
    assert "service/report/page/page.html" in names
    assert "service/winner/modeling_hptune.py" in names


def test_an_installed_command_makes_runs_and_uses_a_study(installed, tmp_path):
    tiny = tiny_study(tmp_path)
    tiny.write()
    here = tmp_path / "nano gpt"
    shutil.copytree(tmp_path / "tiny", here / "studies" / "tiny")
    for name in ("model.py", "service.py"):  # of a project in which it is called
        (here / name).write_text("raise ImportError('taken from the current folder')\n")
    run = call(installed, "hptune", "run", "1", "--study", "tiny", "--workers", "1", cwd=here)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "evaluate the best on held-out titles: hptune evaluate --study tiny" in run.stdout
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["artifacts", "cache", "hptune.db"]
    shown = call(installed, "hptune", "best", "tiny", "--as", "overrides", cwd=here)
    assert "--set model.d_model=16" in shown.stdout, shown.stderr
    written = call(installed, "hptune", "report", "tiny", cwd=here)
    assert (here / "runs" / "reports" / "tiny" / "report.html").exists(), written.stderr
    read = call(installed, "python", "-P", "-c", ASKED, "tiny", cwd=here)
    assert read.returncode == 0, read.stderr
    file, title = read.stdout.splitlines()
    assert Path(file).is_relative_to(installed)
    assert title.startswith("the")


def test_shipped_studies_are_found_from_any_folder(installed, tmp_path):
    done = call(installed, "hptune", "create", "nosuch", cwd=tmp_path)
    assert done.returncode == 2
    there = ", ".join(sorted(path.parent.name for path in ROOT.glob("studies/*/study.yaml")))
    assert done.stderr == f"error: study 'nosuch' does not exist; there are: {there}\n"
    corpus = tiny_study(tmp_path).folder / "corpus.txt"
    pairs = ["--set", "data.source=file", "--set", f"data.path={corpus}"]
    done = call(installed, "hptune", "create", "optimizers", *pairs, cwd=tmp_path)
    assert "study optimizers: reading the corpus (file)" in done.stdout, done.stderr
