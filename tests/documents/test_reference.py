import re

import pytest

from tests.documents import reference
from tests.documents.pages import ROOT

WITHIN = {
    "HPTUNE_COMMIT", "HPTUNE_CONTAINER", "HPTUNE_EVALUATE_STARTED", "HPTUNE_STORAGE_PUBLISHED",
    "HPTUNE_DASHBOARD_PUBLISHED_ON_LOOPBACK", "HPTUNE_DASHBOARD_WAIT",
}  # fmt: skip
"""Variables that one part of the project sets for another one."""


@pytest.mark.parametrize("name", sorted(path.name for path in reference.FOLDER.glob("*.md")))
def test_a_reference_page_is_what_code_and_help_say(name):
    made = reference.pages()
    written = (reference.FOLDER / name).read_text(encoding="utf-8")
    assert written == made[name], f"docs/reference/{name} is out of date: {reference.COMMAND}"


def test_there_is_a_page_for_each_that_is_made():
    assert {path.name for path in reference.FOLDER.iterdir()} == set(reference.pages())


def test_every_setting_is_on_its_page():
    sources = [*ROOT.glob("service/**/*.py"), *ROOT.glob("model/**/*.py"), *ROOT.glob("docker*/*")]
    sources += [ROOT / "docker-compose.yml", ROOT / "evaluate.py"]
    used = {name for path in sources for name in re.findall(r"\bHPTUNE_[A-Z_]*[A-Z]\b", path.read_text())}
    page = (reference.FOLDER / "settings.md").read_text()
    assert sorted(name for name in used - WITHIN if name not in page) == []
