import pytest

from model.config.section import validate
from model.config.yaml_tree import parse
from model.errors import ConfigError
from service.study.base import Base
from service.study.cells import file_space
from service.study.file import StudyConfig
from service.study.tries import tried_points

STUDY = """\
question: Does it work?
space:
  optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2}
  model.n_layer: {type: int, low: 2, high: 6, step: 2}
  optimizer.sharpness.method: {type: categorical, choices: [none, sam]}
  optimizer.sharpness.rho: {type: float, low: 0.02, high: 0.5, when: {optimizer.sharpness.method: [sam]}}
"""
BASE = Base.of(
    parse("optimizer: {lr: 1.0e-3, sharpness: {method: none}}\nmodel: {n_layer: 4}", name="base.yaml")
)
OF_BASE = {"optimizer.lr": 1e-3, "model.n_layer": 4, "optimizer.sharpness.method": "none"}


def points(tries, *, base=BASE, more=""):
    document = parse(f"{STUDY}{more}try:\n{tries}", name="study.yaml")
    study = validate(document, StudyConfig)
    return tried_points(study, document, file_space(study, document), base)


def test_what_a_point_leaves_out_is_the_base_files():
    found = points(
        "  - {optimizer.lr: 2.0e-3}\n"
        "  - {model.n_layer: 2, optimizer.sharpness.method: sam, optimizer.sharpness.rho: 0.1}\n"
    )
    assert found == (
        OF_BASE | {"optimizer.lr": 2e-3},
        {
            "optimizer.lr": 1e-3,
            "model.n_layer": 2,
            "optimizer.sharpness.method": "sam",
            "optimizer.sharpness.rho": 0.1,
        },
    )


def test_a_base_that_has_the_parent_lets_the_child_be_given_alone():
    sam = Base.of(
        parse(
            "optimizer: {lr: 1.0e-3, sharpness: {method: sam, rho: 0.05}}\nmodel: {n_layer: 4}",
            name="base.yaml",
        )
    )
    (found,) = points("  - {optimizer.sharpness.rho: 0.1}\n", base=sam)
    assert found["optimizer.sharpness.rho"] == 0.1


@pytest.mark.parametrize(
    ("tries", "message"),
    [
        ("{optimizer.lr: 0.1}", "study.yaml:8: try: optimizer.lr: given 0.1, allowed: from 0.0001 to 0.01"),
        (
            "{model.n_layer: 3}",
            "study.yaml:8: try: model.n_layer: given 3, allowed: a whole number from 2 to 6 in ",
        ),
        (
            "{optimizer.name: sgd}",
            "study.yaml:8: try: optimizer.name: is no parameter of the space, which has: op",
        ),
        (
            "{optimizer.sharpness.rho: 0.1}",
            'study.yaml:8: try: optimizer.sharpness.rho: exists only beside optimizer.sharpness.method ["sam"]',
        ),
        ("{optimizer.lr: 1.0e-3}", "study.yaml:8: try: is the baseline, which is the first trial already"),
        (
            "{optimizer.lr: 2.0e-3}\n  - {model.n_layer: 4, optimizer.lr: 2.0e-3}",
            "study.yaml:9: try: is the same point as an earlier one",
        ),
    ],
)
def test_what_cannot_be_tried_is_refused_with_its_place_key_and_range(tries, message):
    with pytest.raises(ConfigError) as caught:
        points(f"  - {tries}\n")
    assert str(caught.value).startswith(message)


def test_without_a_baseline_it_may_be_tried():
    assert points("  - {optimizer.lr: 1.0e-3}\n", more="baseline: false\n") == (OF_BASE,)
