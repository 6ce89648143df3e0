"""A study that this kind of device cannot train is refused by key, before it is made and before a slot is leased."""

from dataclasses import replace

import pytest

from model.errors import ConfigError
from service.machine import places
from service.machine.estimate import measure_study
from service.study import definition as study_config
from service.study.base import Base
from service.study.device_proof import prove_device
from tests.conftest import SPACE

SEARCHED = """\
space:
  training.precision: {type: categorical, choices: [fp32, fp16]}
sampler: {name: random}
"""
CONDITIONAL = """\
space:
  optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
  optimizer.name: {type: categorical, choices: [adamw, adam]}
  training.precision: {type: categorical, choices: [fp32, bf16], when: {optimizer.name: [adam]}}
sampler: {name: random}
baseline: false
"""
DESIGN = "design: {list: [{arm: a, training.precision: fp32}, {arm: b, training.precision: fp16}]}\n"
REFUSAL = (
    "training.precision: given fp16 on a CPU, allowed there: auto, fp32, bf16; or give its workers a GPU"
)


@pytest.mark.parametrize(
    ("body", "precision", "place"),
    [
        (SEARCHED, "auto", r"study\.yaml:\d+"),
        (f"{SEARCHED}baseline: false\n", "auto", r"study\.yaml:\d+"),
        (SPACE, "fp16", r"study\.yaml:\d+"),
        (DESIGN, "auto", "study tiny"),
        (DESIGN.replace("fp16", "bf16"), "fp16", r"study\.yaml:\d+"),  # of the baseline
    ],
)
def test_fp16_is_refused_on_a_cpu_by_key_and_place_and_not_on_a_gpu(tiny, body, precision, place):
    tiny.write(body, **{"training.precision": precision if precision != "auto" else None})
    definition = study_config.load(tiny.file)
    with pytest.raises(ConfigError, match=f"{place}: {REFUSAL}$") as caught:
        prove_device(definition, "cpu")
    assert "\n" not in str(caught.value)
    prove_device(definition, "cuda")
    prove_device(study_config.StudyDefinition.from_snapshot(definition.snapshot()), "cuda")


@pytest.mark.parametrize(
    ("body", "precision"),
    [
        (f"{DESIGN.replace('fp16', 'bf16')}baseline: false\n", None),
        (SPACE, "bf16"),
    ],
)
def test_what_no_trial_asks_for_is_not_refused(tiny, body, precision):
    tiny.write(body, **{"training.precision": precision})
    prove_device(study_config.load(tiny.file), "cpu")


def test_the_base_files_own_precision_counts_where_a_trial_may_have_it(tiny):
    def with_base(body):
        tiny.write(body)
        given = study_config.load(tiny.file)
        document = given.base.document.with_overrides({"training.precision": "fp16"})
        return replace(given, base=Base.of(document))

    never = f"{SEARCHED.replace('fp16', 'bf16')}baseline: false\n"
    prove_device(with_base(never), "cpu")
    for body in (CONDITIONAL, never.replace("false", "true")):
        with pytest.raises(ConfigError, match=f"override: {REFUSAL}$"):
            prove_device(with_base(body), "cpu")


def test_a_study_that_this_machine_cannot_train_is_not_made(tiny, monkeypatch):
    tiny.write(SEARCHED)
    with pytest.raises(ConfigError, match=REFUSAL):
        tiny.create(2)  # the test's settings say `cpu`
    here = replace(tiny.settings, device="auto")
    elsewhere = replace(tiny, settings=here)
    monkeypatch.setattr(places, "visible_gpus", lambda _: [])
    with pytest.raises(ConfigError, match=REFUSAL):
        elsewhere.create(2, workers_here=True)
    elsewhere.create(2)  # whose workers may have GPUs
    assert tiny.trials() == []


def test_neither_worker_nor_measurement_begins_and_no_slot_is_leased(tiny):
    tiny.write(SEARCHED)
    replace(tiny, settings=replace(tiny.settings, device="auto")).create(2)
    with pytest.raises(ConfigError, match=REFUSAL):
        tiny.worker()
    with pytest.raises(ConfigError, match=REFUSAL):
        measure_study(tiny.settings, "tiny", threads=1, seconds=0.1)
    assert tiny.slots() == {"open": 2, "leased": 0, "held": 0, "closed": 0}
    assert tiny.trials() == []
