"""A reader who gives every command of a page, in its order, in a fresh clone."""

import random
import shlex
from pathlib import Path

import pytest

from tests.clones import call, checkout
from tests.documents.pages import ROOT, blocks

pytestmark = pytest.mark.slow

SMALLER = {"training.tokens: 400000": "training.tokens: 12000"}
"""The budget of the studies on these pages, and what it is here."""
FROM_A_FILE = {"data.source: docstrings": "data.source: file\n  data.path: titles.txt"}
"""The docstrings of all packages take half a minute to read."""
NOT_RUN = (
    "--prepare",  # the environment is there
    "pip install",  # needs a network
    "dashboard",  # serves until it is stopped
    "./hptune.sh 50 ",  # studies/hn, for hours
)

PAGES = ("README.md", "docs/measuring.md", "docs/method.md")
GIVEN = """
import optuna
study = optuna.load_study(study_name="quickstart", storage="sqlite:///runs/hptune.db")
params, distributions = study.trials[0].params, study.trials[0].distributions
"""
"""What the examples for Python leave to the reader."""
TOLD = """
for trial in study.trials:
    print(trial.value, trial.system_attrs.get("fixed_params"))
"""


def commands(page: Path) -> list[str]:
    """Those of a page that are run."""
    lines = [line for block in blocks(page) if not block.language for line in block.text.splitlines()]
    return [line for line in lines if not any(part in line for part in NOT_RUN)]


def follow(page: str, root: Path) -> dict[str, str]:
    """Give the commands of a page; what each wrote."""
    said = {}
    for line in commands(ROOT / page):
        done = call(*shlex.split(line), cwd=root, timeout=1800, HPTUNE_DEVICE="cpu")
        assert done.returncode == 0, f"{page}: {line}\n{done.stdout}{done.stderr}"
        said[line] = done.stdout
    return said


def titles(count: int) -> str:
    """Lines of made-up words, frequent and rare ones."""
    chance = random.Random(1)
    words = ["".join(chance.choices("aeioubcdfghlmnprst", k=chance.randint(2, 8))) for _ in range(900)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    return "".join(
        " ".join(chance.choices(words, weights, k=chance.randint(4, 10))) + "\n" for _ in range(count)
    )


def put(root: Path, study: str, text: str, replaced: dict[str, str]) -> None:
    """Make the study file, with some of its text replaced."""
    for old, new in replaced.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = root / "studies" / study / "study.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


@pytest.fixture
def root(tmp_path) -> Path:
    """A clone with titles."""
    clone = checkout(tmp_path / "clone")
    (clone / "titles.txt").write_text(titles(8_000))
    return clone


def test_the_tutorial_leads_from_titles_to_a_verdict(root):
    (file,) = [block for block in blocks(ROOT / "docs" / "tutorial.md") if block.language == "yaml"]
    put(root, "mine", file.text, SMALLER)
    said = follow("docs/tutorial.md", root)
    assert "best trials, val_loss in nats per character" in said["./hptune.sh --study mine"]
    reports = root / "runs" / "reports" / "mine"
    assert {"report.html", "confirmation.md", "evaluation-confirmed.md"} <= {
        path.name for path in reports.iterdir()
    }


def test_what_other_pages_do_with_quickstart_works(root):
    text = (ROOT / "studies" / "quickstart" / "study.yaml").read_text()
    put(root, "quickstart", text, SMALLER | FROM_A_FILE)
    said = {line: text for page in PAGES for line, text in follow(page, root).items()}
    assert "titles drawn from" in said["python3 evaluate.py --study quickstart"]
    python = [block.text for block in blocks(ROOT / "docs" / "optuna.md") if block.language == "python"]
    done = call(".venv/bin/python", "-c", "\n".join([GIVEN, *python, TOLD]), cwd=root, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["None {'optimizer.lr': 0.002}", "2.31 None"]
