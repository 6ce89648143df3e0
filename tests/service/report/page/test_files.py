"""A report's files, as the verb writes them."""

import csv
import json
import re
import subprocess

from model.config import yaml_tree
from model.config.section import validate
from model.config.train_config import TrainConfig
from service.storage.claims import Claims
from service.storage.opened_study import open_study
from service.storage.pauses import Pauses
from tests.conftest import SPACE, tiny_study
from tests.service.catalogue.asking import fill, invoke
from tests.service.report.page.conftest import read, report
from tests.service.report.page.test_sections import TUNED_SECTIONS


def test_figures_are_beside_the_page(tuned):
    names = {path.name for path in (tuned[0] / "figures").iterdir()}
    assert {"val-loss-curves.png", "val-loss-curves.svg", "history.png", "rank-frequency.svg"} <= names


def test_the_page_is_printed_last_and_the_result_is_written_twice(tuned):
    folder, output = tuned
    copy = folder / "kept" / "copy.json"
    beside = {path for path in folder.rglob("*") if path.is_file()} - {copy, folder / "report.html"}
    assert output.splitlines()[-2:] == [
        f"written: {copy}",
        f"written: {folder / 'report.html'}, and {len(beside)} files beside it: Markdown, JSON, CSV and figures",
    ]
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
    config = validate(yaml_tree.read(folder / "best.yaml"), TrainConfig)
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


def test_what_is_spent_of_a_studys_budget_stands_under_its_question(tiny, tmp_path):
    tiny.write(SPACE + "pruner: {name: asha}\nspend: {tokens: 27000}\n")
    tiny.create()
    fill(tiny, ({"optimizer.lr": 0.001}, 2.0))
    opened = open_study(tiny.settings, "tiny")
    pauses = Pauses(Claims(opened.slots, owner="a", lease_seconds=60))
    pauses.begin(opened.budget.read(), tokens=9000, point=None)
    opened.close()
    assert report(tiny, "tiny", "--out", tmp_path)[0] == 0
    said = "9,000 tokens spent of 27,000 tokens; 18,000 tokens left"
    question = '<p class="question">Does it work?</p>\n'
    assert f'{question}<p class="note">Budget: {said}.</p>' in (tmp_path / "report.html").read_text()
    assert f"\nDoes it work?\n\nBudget: {said}.\n" in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "result.json").read_text())["budget"] == said
    assert f"  budget of the study: {said}\n" in invoke(tiny, "show", "tiny").stdout


def test_a_study_whose_budget_is_a_number_of_trials_says_nothing_of_another(tuned):
    assert "Budget:" not in (tuned[0] / "report.html").read_text()
    assert "budget" not in json.loads((tuned[0] / "result.json").read_text())
