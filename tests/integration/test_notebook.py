"""The notebook in docs/, its cells run one after the other in a process of their own, as a kernel would."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.integration
NOTEBOOK = ROOT / "docs" / "from_python.ipynb"


def test_every_cell_of_the_notebook_runs(tmp_path):
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 8
    assert not any(cell.get("outputs") for cell in notebook["cells"])  # those are of one machine and day
    cells = [cell for cell in cells for _ in range(2)]  # as people do
    script = "\n\n".join([*cells, 'print("the last cell has run")'])
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HPTUNE_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        env=kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HPTUNE_DEVICE": "cpu", "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("the last cell has run\n")
