import json
import re

from tests.service.report.page.conftest import HOSTILE, read

TUNED_SECTIONS = [
    "answer", "next", "search", "trials", "setting", "statistics", "budgets", "figures", "pruning", "tokenizer",
    "model", "failed", "definitions", "repeat",
]  # fmt: skip
DESIGN_SECTIONS = [
    "answer", "setting", "statistics", "budgets", "figures", "tokenizer", "model", "failed", "runs", "definitions",
    "repeat",
]  # fmt: skip


def test_a_tuned_study_has_every_section(tuned):
    reader = read((tuned[0] / "report.html").read_text())
    assert reader.sections == TUNED_SECTIONS
    assert {f"#{section}" for section in TUNED_SECTIONS} <= set(reader.addresses)


def test_a_design_has_every_section_but_the_search(designed):
    reader = read((designed / "report.html").read_text())
    assert reader.sections == DESIGN_SECTIONS
    for figure in (
        "equal-budgets",
        "val-loss-curves",
        "final",
        "dynamics",
        "calibration",
        "loss-by-position",
        "stack",
    ):
        assert f'id="figure-{figure}"' in (designed / "report.html").read_text()


def test_the_answer_names_the_best_arm_and_its_difference_to_the_baseline(designed):
    text = " ".join(read((designed / "report.html").read_text()).text.split())
    record = json.loads((designed / "result.json").read_text())
    losses = {
        name: sum(run["metrics"]["val_loss"] for run in runs) / 2 for name, runs in record["arms"].items()
    }
    assert min(losses, key=losses.get) == HOSTILE
    assert f"Lowest validation loss: {HOSTILE}, {losses[HOSTILE]:.3f}"[:-1] in text
    assert "plain, the arm to compare with, has" in text
    assert "(95 % interval" in text
    assert "told apart." in text


def test_what_is_not_asked_for_first_is_folded(tuned):
    html = (tuned[0] / "report.html").read_text()
    for section in ("budgets", "figures", "tokenizer", "definitions"):
        assert re.search(rf'<section id="{section}">\s*<details><summary><h2>', html), section
    for section in ("answer", "next", "search", "trials", "setting"):
        assert re.search(rf'<section id="{section}">\s*<h2>', html), section
