"""The page of two studies or arms, and the verb that writes it."""

import re

import pytest

from tests.conftest import SPACE
from tests.service.catalogue.asking import fill, invoke, plain_study
from tests.service.report.page.conftest import read


def compared(tiny, first, second, file):
    done = invoke(tiny, "compare", first, second, "--html", file)
    assert done.exit_code == 0, done.output
    return read(file.read_text()), " ".join(done.stdout.split())


def test_the_page_says_first_whether_they_can_be_compared(compared_arms):
    reader = read(compared_arms.read_text())
    assert reader.sections == ["standing", "answer", "curves", "budgets", "repeat"]
    text = " ".join(reader.text.split())
    assert text.index("Their losses can be compared: the same validation titles") < text.index(
        "fast has the lower loss"
    )
    assert (
        "fast has the lower loss: 1.6000 nats per character, 0.600 less than slow with 2.2000 (27.3%)."
        in text
    )
    # 0.5, 0.6 and 0.7 apart: mean 0.6, standard deviation 0.1, t(0.975; 2) = 4.303
    assert "-0.600 (95 % interval -0.848 to -0.352, 3 seeds)" in text
    assert "they are told apart" in text
    assert "fixed:\n  optimizer.lr: 0.001" in reader.text
    assert not [address for address in reader.addresses if not address.startswith("#")]


def test_losses_on_other_titles_have_no_difference_anywhere(apart, tmp_path):
    reader, said = compared(apart, "tiny", "fewer", tmp_path / "page.html")
    assert reader.sections == ["standing", "answer", "history", "repeat"]  # no curve is kept of these trials
    for text in (" ".join(reader.text.split()), said):
        assert "Their losses cannot be compared: their corpora are not the same" in text
        assert "lower loss" not in text
        assert "confirm" not in text
        assert "2.0000" in text


def test_single_runs_are_said_to_be_single(tiny, tmp_path):
    tiny.create(1)
    tiny.write(SPACE, seed=7)
    tiny.create(1, name="other")
    fill(tiny, ({"optimizer.lr": 0.001}, 2.0))
    fill(tiny, ({"optimizer.lr": 0.005}, 1.75), ({"optimizer.lr": 0.002}, None), name="other")
    reader, said = compared(tiny, "tiny", "other", tmp_path / "deep" / "page.html")
    for text in (" ".join(reader.text.split()), said):
        assert (
            "Trial 0 of other has the lower loss: 1.7500 nats per character, 0.250 less than trial 0 of tiny"
            in text
        )
        assert "Each is one run on one seed. The noise between seeds was not measured here." in text
        assert "1 complete trial of tiny and 1 complete trial of other" in text
        assert "service confirm other" in text
    assert "What each found for what it spent" in reader.text


@pytest.mark.parametrize("columns", [60, 100, 160])
def test_columns_fit_and_no_word_is_broken(apart, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    done = invoke(apart, "compare", "tiny", "fewer")
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= columns
    words = set(done.stdout.split())
    assert {"documents", "cannot", "compared:", "validation", "val_loss"} <= words


def test_what_cannot_be_is_one_line(tiny, tmp_path):
    tiny.create(1)
    tiny.create(1, name="other")
    plain_study(tiny, "foreign", (0.1, 1.0))
    assert invoke(tiny, "compare", "tiny", "nosuch").stderr.startswith("error: study 'nosuch' is not in ")
    said = invoke(tiny, "compare", "foreign", "tiny").stderr
    assert said.startswith("error: study 'foreign' was made by Optuna")
    assert "No complete trial yet: tiny, other." in " ".join(
        invoke(tiny, "compare", "tiny", "other").stdout.split()
    )
    (tmp_path / "file").write_text("")
    said = invoke(tiny, "compare", "tiny", "other", "--html", tmp_path / "file" / "page.html").stderr
    assert re.fullmatch(r"error: .*page.html: cannot be written: .*; --html names another file\n", said)
