import dataclasses
import math
import subprocess
import sys

import pytest

from model.measurement.evaluation_record import Evaluation
from service.storage.artifact_stores import open_store
from service.storage.database import open_storage
from service.storage.studies import StudyError, load_study
from tests.conftest import ROOT
from tests.service.report.conftest import FINAL, add_trial, read_record


def test_runs_are_gathered_into_arms_in_the_designs_order_by_seed(record):
    assert [arm.name for arm in record.arms] == ["slow", "fast", "wild"]
    assert record.arm("fast").values("val_loss") == dict(zip((1, 2, 3), FINAL["fast"], strict=True))
    assert record.seeds == (1, 2, 3)
    assert record.devices == ("a CPU",)
    assert record.baseline == "slow"
    assert not record.tuned


def test_a_diverged_run_is_in_its_arm_and_in_no_mean(record):
    wild = record.arm("wild")
    assert [run.state for run in wild.runs] == ["complete", "diverged", "complete"]
    assert wild.values("val_loss") == {1: 3.0, 3: 3.4}
    assert wild.ended_early == "of 3 runs 1 diverged"
    diverged = wild.runs[1]
    assert diverged.ended == "diverged: the loss of step 30 is nan"
    assert diverged.curve == ({"rung_tokens": 3000, "val_loss": 4.0},)
    assert not diverged.has_curve


def test_what_is_not_finite_is_in_no_mean(record_of):
    arm = record_of(a={"ece": [0.25, math.nan, math.inf]}).arm("a")
    assert arm.values("ece") == {0: 0.25}
    assert math.isnan(arm.runs[1].metrics["ece"])


def test_a_trial_that_another_went_on_with_is_counted_and_is_no_run(record):
    assert record.states == {"complete": (0, 1, 2, 3, 4, 5, 6, 9), "diverged": (7,), "continued": (8,)}
    assert [run.trial for run in record.arm("wild").runs] == [6, 7, 9]


def test_diagnostics_are_read_and_become_figures(record):
    run = record.arm("wild").runs[0]
    assert len(run.steps) == 4
    assert len(run.evaluations) == 3
    expected = {
        "grad_norm": 2.0,  # median of 1, 4, 2: a null is no number
        "grad_norm_max": 4.0,
        "grad_norm_std": pytest.approx((7 / 3) ** 0.5),  # of 1, 4, 2: mean 7/3, squares 21 - 49/3 = 14/3
        "grad_norm/blocks.0": 0.25,
        "train_loss": 3.0,  # the evaluation's, not a step's
        "train_loss_final": pytest.approx(4.6),
        "tokens_per_second": 1000.0,
        "step_seconds": 0.1,
        "accuracy": 0.4,
        "top1_gap": pytest.approx(0.2),
        "top5_improvement": pytest.approx(0.3),
        "confidence_gap": pytest.approx(0.1),
        "loss_spikes": 1,  # the last evaluation's count
        "step": 70,
        "tokens_per_step": 128,
        "steps_per_second": pytest.approx(70 / 9),
        "seconds": 9.25,
        "loss_per_context_token": 3 / 16,
        "loss_per_million_tokens": pytest.approx(3.0 / 0.00896),
        "convergence_improvement": None,  # three rungs
        "peak_memory_bytes": None,
        "initial_val_nats_per_token": None,
        "parameters": 9000,
    }
    assert {name: run.metrics[name] for name in expected} == expected
    assert run.metrics["epochs"] == pytest.approx(8960 / record.corpus["train_tokens"])
    assert record.arm("slow").runs[0].metrics["accuracy"] is None


def test_files_that_are_gone_leave_what_the_storage_has(written, record, tmp_path):
    without = read_record(dataclasses.replace(written, settings=dataclasses.replace(
        written.settings, artifacts=str(tmp_path / "elsewhere")
    )))  # fmt: skip
    run = without.arm("slow").runs[0]
    assert run.metrics["val_loss"] == 2.0
    assert run.metrics["bits_per_byte"] == record.arm("slow").runs[0].metrics["bits_per_byte"]
    assert [row["val_loss"] for row in run.curve] == [2.6, 2.2, 2.0]
    assert not run.has_curve
    assert run.curve[-1]["train_seconds"] == 9
    fields = {field.name for field in dataclasses.fields(Evaluation)}
    assert all(row.keys() <= fields for row in run.curve)  # and not what else the trial has
    assert without.arm("wild").runs[0].metrics["parameters"] == 9000


def test_epochs_are_of_the_tokens_of_a_runs_own_tokenizer(tiny):
    tiny.write("design: {list: [{arm: a}]}\nbaseline: false\n")
    tiny.create()
    storage = open_storage(tiny.settings)
    study, definition = load_study(storage, "tiny", tiny.settings)
    store = open_store(tiny.settings.artifacts)

    def add(arm, values, **attributes):
        config = definition.config_for(values).with_tokens(9000).model_dump(mode="json")
        add_trial(study, store, config, arm=arm, losses=(4.0, 3.0, 2.0), **attributes)

    add("base", {})
    add("noted", {"tokenizer.model": "unigram"}, train_tokens=4480)
    add("same size, another model", {"tokenizer.model": "unigram"})
    add("another size", {"tokenizer.vocab_size": 270})
    storage.engine.dispose()
    found = read_record(tiny)
    epochs = {arm.name: arm.runs[0].metrics["epochs"] for arm in found.arms}
    assert epochs == {
        "base": 8960 / found.corpus["train_tokens"],
        "noted": 2.0,
        "same size, another model": None,
        "another size": None,
    }


def test_a_store_that_cannot_be_read_is_one_line(written, tmp_path):
    (tmp_path / "file").touch()
    settings = dataclasses.replace(written.settings, artifacts=str(tmp_path / "file"))
    with pytest.raises(StudyError, match=r"^[^\n]*file: curves cannot be read: [^\n]*$"):
        read_record(dataclasses.replace(written, settings=settings))


def test_the_report_answers_without_torch():
    code = "import sys, service.report.page.text, service.report.record.study_record; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
