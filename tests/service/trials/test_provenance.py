import re
import subprocess
from importlib.metadata import version

import pytest

from service.trials import provenance


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.delenv("HPTUNE_COMMIT", raising=False)
    provenance.commit.cache_clear()
    yield
    provenance.commit.cache_clear()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit, in place of this project's."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path)

    def git(*arguments):
        name = ("-c", "user.name=n", "-c", "user.email=e@x")
        command = ["git", *name, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "first")
    return git


def test_the_commit_is_gits_and_says_whether_the_files_differ(checkout, tmp_path):
    head = checkout("rev-parse", "HEAD").strip()
    assert re.fullmatch("[0-9a-f]{40}", head)
    assert provenance.commit() == head
    (tmp_path / "file").write_text("2")
    assert provenance.commit() == head  # a process is of the commit that it has begun with
    provenance.commit.cache_clear()
    assert provenance.commit() == f"{head}+changes"


def test_an_image_has_no_checkout_and_says_what_it_was_built_from(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() is None
    provenance.commit.cache_clear()
    monkeypatch.setenv("HPTUNE_COMMIT", "abc")
    assert provenance.commit() == "abc"


def test_what_it_ran_on_is_noted_with_the_versions_that_are_installed():
    noted = provenance.collect(device="a CPU", corpus_fingerprint="f", precision="fp32")
    assert noted["versions"]["torch"] == version("torch")
    assert noted["versions"].keys() == {"torch", "optuna", "tokenizers", "numpy"}
    assert (noted["device"], noted["precision"], noted["corpus_fingerprint"]) == ("a CPU", "fp32", "f")
    assert noted["commit"] == provenance.commit()
