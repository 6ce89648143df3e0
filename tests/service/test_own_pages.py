"""What is said of a study of training code that is not ours: in its own words, and nothing of tokens and characters."""

import re

import pytest

import hptune
from service.report.page import files
from service.storage.opened_study import open_study
from tests.own_code import SPACE, own_study
from tests.service.catalogue.asking import invoke
from tests.service.report.page.conftest import read

NOT_ITS_OWN = re.compile(r"nats|characters|\btokens?\b|held-out|FLOPs|val_loss", re.IGNORECASE)


@pytest.fixture(scope="module")
def falling(tmp_path_factory):
    """A search of eight trials, the last ones pruned where they lag."""
    study = own_study(
        tmp_path_factory.mktemp("falling"),
        body=SPACE + "pruner: {name: median, startup_trials: 2, warmup_fraction: 0.2}\n",
    )
    study.create(8)
    study.worker().work()
    return study


@pytest.mark.parametrize(
    "words",
    [
        ("status", "tiny"),
        ("show", "tiny"),
        ("list",),
        ("best", "tiny"),
        ("best", "tiny", "--as", "difference"),
        ("best", "tiny", "--as", "overrides"),
        ("compare", "tiny:0", "tiny:1"),
    ],
    ids=" ".join,
)
def test_verbs_say_it_in_the_words_of_the_study(falling, words):
    done = invoke(falling, *words)
    assert done.exit_code == 0, done.output
    assert NOT_ITS_OWN.findall(done.output.replace(str(falling.folder), "")) == []
    if words[0] not in ("list", "best"):
        assert "height" in done.output


def test_the_page_of_two_trials_is_in_the_words_of_the_study(falling, tmp_path):
    done = invoke(falling, "compare", "tiny:0", "tiny:1", "--html", tmp_path / "page.html")
    assert done.exit_code == 0, done.output
    text = read((tmp_path / "page.html").read_text()).text
    assert "has the lower height" in text
    assert NOT_ITS_OWN.findall(text.replace("`val_loss` in files", "")) == []


@pytest.mark.parametrize(
    "words",
    [
        ("train", "tiny"),
        ("generate", "tiny"),
        ("estimate", "tiny"),
        ("evaluate", "--study", "tiny"),
        ("evaluate", "--study", "tiny", "--confirmed"),
        ("export", "tiny", "--format", "hf"),
    ],
    ids=" ".join,
)
def test_what_is_of_the_gpt_says_so_in_a_line(falling, words, tmp_path):
    out = ("--out", tmp_path / "out") if words[0] in ("evaluate", "export", "train") else ()
    done = invoke(falling, *words, *out)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: study 'tiny' trains falling:Run: ")
    assert done.stderr.endswith(" applies to the built-in GPT alone\n")


def test_a_fork_takes_along_what_fits_and_refuses_another_metric(falling, tmp_path):
    wider = falling.file.read_text().replace("high: 0.5", "high: 0.6")
    file = tmp_path / "wider" / "study.yaml"
    file.parent.mkdir()
    for name in ("falling.py", "config.yaml"):
        (file.parent / name).write_text((falling.file.parent / name).read_text())
    file.write_text(wider)
    done = invoke(falling, "fork", "tiny", "--file", file, "--name", "wider")
    assert done.exit_code == 0, done.output
    study = hptune.open_study("wider", settings=falling.settings)
    assert len(study.trials()) == 8
    assert study.best_config().seed == 1
    file.write_text(wider.replace("metric: height", "metric: depth"))
    done = invoke(falling, "fork", "tiny", "--file", file, "--name", "deeper")
    assert done.exit_code == 2
    assert "trains another code or minimises another metric" in done.stderr


def test_the_state_of_the_best_is_exported(falling, tmp_path):
    done = invoke(falling, "export", "tiny", "--format", "checkpoint", "--out", tmp_path / "best")
    assert done.exit_code == 0, done.output
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["state.json"]


def test_changed_code_is_told_when_the_study_is_met_again(falling):
    file = falling.file.parent / "falling.py"
    before = file.read_text()
    said: list[str] = []
    falling.create(None, as_it_is=True, say=said.append)
    assert said == []
    file.write_text(f"{before}# changed\n")
    falling.create(None, as_it_is=True, say=said.append)
    file.write_text(before)
    assert said[0].startswith("the file of falling:Run has changed since study tiny was made")


@pytest.mark.slow
def test_the_report_is_in_the_words_of_the_study(falling, tmp_path):
    opened = open_study(falling.settings, "tiny")
    files.write(opened, folder=tmp_path)
    opened.close()
    page = (tmp_path / "report.md").read_text()
    assert "height" in page
    assert "9 strides" in page
    page = page.replace("`val_loss` in files", "").replace("`tokens` in files", "").replace("\\`", "`")
    assert NOT_ITS_OWN.findall(page.replace("`val_loss` in files", "").replace("`tokens` in files", "")) == []
