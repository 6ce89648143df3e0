"""The page, and the verb that writes it, for real studies."""

import csv
import json
import re
import subprocess
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from model.config import yaml_tree
from model.config.train_config import TrainConfig
from service.__main__ import cli
from service.report.page import html_page
from service.report.page.html_page import Section
from service.text.tables import Table
from tests.conftest import tiny_study

HOSTILE = "<script>alert(1)</script> $x$ | `\"'&"
DESIGN = f"""\
baseline: false
keep_checkpoints: 1
design:
  list:
    - {{arm: plain, optimizer.lr: 1.0e-3}}
    - {{arm: {json.dumps(HOSTILE)}, optimizer.lr: 3.0e-3}}
  seeds: [1, 2]
"""
VOID = {"meta", "br", "input", "rect", "circle", "path", "line"}
TUNED_SECTIONS = [
    "answer", "next", "search", "trials", "setting", "statistics", "budgets", "figures", "pruning", "tokenizer",
    "model", "failed", "definitions", "repeat",
]  # fmt: skip
DESIGN_SECTIONS = [
    "setting", "answer", "statistics", "budgets", "figures", "tokenizer", "model", "failed", "runs", "definitions",
    "repeat",
]  # fmt: skip


class Reader(HTMLParser):
    """What a browser sees: sections, text, addresses; fails where tags do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.scripts = 0

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.addresses += [values[key] for key in ("src", "href", "action", "data") if values.get(key)]
        if tag == "section":
            self.sections.append(values["id"])
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def report(tiny, *arguments):
    """The verb's exit status and what it said."""
    environment = {key: value for key, value in tiny.command()["env"].items() if key.startswith("HPTUNE_")}
    done = CliRunner().invoke(cli, ["report", *map(str, arguments)], env=environment)
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def tuned(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    status, output = report(finished, "tiny", "--out", folder, "--result", folder / "kept" / "copy.json")
    assert status == 0, output
    return folder, output


@pytest.fixture(scope="module")
def designed(tmp_path_factory):
    tiny = tiny_study(tmp_path_factory.mktemp("designed"))
    tiny.write(DESIGN, **{"diagnostics.every": 10, "diagnostics.evaluation": "true"})
    tiny.create()
    tiny.worker().work()
    folder = tmp_path_factory.mktemp("report")
    status, output = report(tiny, "tiny", "--out", folder)
    assert status == 0, output
    return folder


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


def test_the_page_asks_for_nothing_but_its_own_figures(designed):
    reader = read((designed / "report.html").read_text())
    files = [address for address in reader.addresses if not address.startswith("#")]
    assert files
    assert all((designed / address).is_file() for address in files)
    style = re.findall(r"<style>(.*?)</style>", (designed / "report.html").read_text(), re.DOTALL)
    assert "url(" not in style[0]
    assert "@import" not in style[0]


def test_a_hostile_arm_is_text(designed):
    html = (designed / "report.html").read_text()
    reader = read(html)
    assert reader.scripts == 2, "plotly's and the page's own"
    assert HOSTILE in reader.text
    assert "<script>alert" not in html


def test_the_answer_names_the_best_arm_and_its_difference_to_the_baseline(designed):
    text = " ".join(read((designed / "report.html").read_text()).text.split())
    record = json.loads((designed / "result.json").read_text())
    losses = {
        name: sum(run["metrics"]["val_loss"] for run in runs) / 2 for name, runs in record["arms"].items()
    }
    assert min(losses, key=losses.get) == HOSTILE
    assert f"Lowest validation loss: {HOSTILE}, {losses[HOSTILE]:.3f}"[:-1] in text
    assert "The baseline, plain, has" in text
    assert "(95 % interval" in text


def test_figures_are_beside_the_page(tuned):
    names = {path.name for path in (tuned[0] / "figures").iterdir()}
    assert {"val-loss-curves.png", "val-loss-curves.svg", "history.png", "rank-frequency.svg"} <= names


def test_every_path_is_printed_and_the_result_is_written_twice(tuned):
    folder, output = tuned
    printed = {line.removeprefix("written: ") for line in output.splitlines()}
    files = {str(path) for path in folder.rglob("*") if path.is_file()}
    assert printed == files
    assert (folder / "kept" / "copy.json").read_text() == (folder / "result.json").read_text()


def test_the_report_does_not_import_torch(finished, tmp_path):
    code = (
        "import sys; from service.__main__ import cli\n"
        "try: cli(sys.argv[1:])\n"
        "finally: print('torch' in sys.modules)"
    )
    command = finished.command()
    command["args"] = [command["args"][0], "-c", code, "report", "tiny", "--out", str(tmp_path)]
    done = subprocess.run(**command, capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_study_that_does_not_exist_is_one_line(finished, tmp_path):
    status, output = report(finished, "other", "--out", tmp_path)
    assert status == 2
    assert output.startswith("error: study 'other' is not in sqlite")
    assert output.count("\n") == 1


def test_a_study_without_a_complete_trial_is_one_line(tiny, tmp_path):
    tiny.create(2)
    status, output = report(tiny, "tiny", "--out", tmp_path)
    assert (status, output) == (
        2,
        "error: study 'tiny' has no complete trial to report (none has begun)\n",
    )


def test_a_folder_that_cannot_be_made_is_one_line(finished, tmp_path):
    (tmp_path / "file").write_text("")
    status, output = report(finished, "tiny", "--out", tmp_path / "file" / "folder")
    assert status == 2
    assert re.fullmatch(
        r"error: .*file.*: cannot be written: Not a directory; --out names another folder\n", output
    )


def test_a_lost_corpus_costs_the_report_its_tokenizer_alone(tmp_path):
    tiny = tiny_study(tmp_path)
    tiny.create(1)
    tiny.worker().work()
    for path in (*tiny.settings.cache.glob("corpus-*"), *(tmp_path / "artifacts").glob("corpus-*")):
        path.unlink()
    status, output = report(tiny, "tiny", "--out", tmp_path / "report")
    assert status == 0, output
    reader = read((tmp_path / "report" / "report.html").read_text())
    assert reader.sections == [name for name in TUNED_SECTIONS if name != "budgets"]  # there is one trial
    assert "Not measured: study 'tiny': the corpus is not there" in reader.text


def test_a_search_begins_with_its_best_configuration_to_copy(tuned, finished):
    folder, _ = tuned
    best = min(finished.trials(), key=lambda trial: trial.value)
    changed = {key: value for key, value in best.params.items() if best.number}
    for written in (read((folder / "report.html").read_text()).text, (folder / "report.md").read_text()):
        assert f"Trial {best.number} has the lowest validation loss, {best.value:.4f} nats" in written
        assert (
            written.index("Best configuration")
            < written.index("Worth trying next")
            < written.index("documents")
        )
        for key, value in changed.items():
            assert f"\n  {key}: {value!r}" in written
    config = yaml_tree.validate(yaml_tree.read(folder / "best.yaml"), TrainConfig)
    assert config.model_dump(mode="json") == best.user_attrs["config"]


def test_every_trial_has_its_values_in_every_form(tuned, finished):
    folder, _ = tuned
    for trial in finished.trials():
        lr = trial.params["optimizer.lr"]
        (run,) = json.loads((folder / "result.json").read_text())["arms"][f"trial {trial.number}"]
        assert run["values"]["optimizer.lr"] == float(f"{lr:.6g}")
        rows = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
        assert lr in {float(row["optimizer.lr"]) for row in rows if row["trial"] == str(trial.number)}
        cells = f"| {trial.number} | complete | {trial.value:.4f} |"
        (row,) = (line for line in (folder / "report.md").read_text().splitlines() if line.startswith(cells))
        assert f"| {lr:.4g} |" in row


def test_what_is_not_asked_for_first_is_folded(tuned):
    html = (tuned[0] / "report.html").read_text()
    for section in ("budgets", "figures", "tokenizer", "definitions"):
        assert re.search(rf'<section id="{section}">\s*<details><summary><h2>', html), section
    for section in ("answer", "next", "search", "trials", "setting"):
        assert re.search(rf'<section id="{section}">\s*<h2>', html), section


def test_backticks_become_code_and_nothing_else_markup():
    section = Section("one", "One", texts=("the key `a<b>` and one ` alone", "<b>"), points=("`x`",))
    html = html_page.render("Title", "Question?", [section])
    assert "<p>the key <code>a&lt;b&gt;</code> and one ` alone</p><p>&lt;b&gt;</p>" in html
    assert "<li><code>x</code></li>" in html


def test_numbers_stand_at_the_right_and_words_at_the_left():
    table = Table(
        "t",
        "T",
        ("arm", "loss", "note", "p"),
        (("1", "1.2 ± 0.1", "3 of it", "–"), ("2", "–", "x", "– (1)")),
    )
    html = html_page.render("Title", "Question?", [Section("one", "One", tables=(table,))])
    cells = re.findall(r"<td( class=\"text(?: short)?\")?>([^<]*)</td>", html)
    assert [(text, bool(left)) for left, text in cells[:4]] == [
        ("1", True), ("1.2 ± 0.1", False), ("3 of it", True), ("–", False),
    ]  # fmt: skip
