import math

import pytest

from model.config.counts import flops_per_token
from service.study.definition import load
from service.study.prices import Prices

SPACE = """\
space:
  optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
  optimizer.name: {type: categorical, choices: [adamw, muon]}
  optimizer.auxiliary_lr: {type: float, low: 1.0e-3, high: 1.0e-1, log: true, when: {optimizer.name: [muon]}}
  model.d_ff: {type: categorical, choices: [16, 32]}
spend: {flops: 1.0e+12}
baseline: false
"""


@pytest.fixture
def definition(tiny):
    tiny.write(SPACE)
    return load(tiny.file)


def test_a_price_is_what_reports_count_rounded_up(definition):
    prices = Prices(definition.base, definition.space)
    for values in (
        {"optimizer.lr": 1e-3, "optimizer.name": "adamw", "model.d_ff": 16},
        {"optimizer.lr": 2e-3, "optimizer.name": "adamw", "model.d_ff": 32},
        {"optimizer.lr": 1e-3, "optimizer.name": "muon", "optimizer.auxiliary_lr": 0.01, "model.d_ff": 32},
    ):
        assert prices.of(values) == math.ceil(flops_per_token(definition.config_for(values)))
    assert len(set(prices._known.values())) == 3
    assert prices.of_base == math.ceil(flops_per_token(definition.base_config))


def test_what_costs_nothing_is_not_counted_anew(definition, monkeypatch):
    prices = Prices(definition.base, definition.space)
    counted = []
    of_config = Prices.of_config
    monkeypatch.setattr(
        Prices, "of_config", lambda self, config: counted.append(0) or of_config(self, config)
    )
    rates = [1e-3, 2e-3, 3e-3]
    found = {prices.of({"optimizer.lr": r, "optimizer.name": "adamw", "model.d_ff": 16}) for r in rates}
    assert len(found) == 1
    # one configuration, and the ends of two ranges of rates
    assert len(counted) <= 1 + 2 * 2


def test_a_point_that_is_not_whole_has_none(definition):
    prices = Prices(definition.base, definition.space)
    assert prices.of({}) is None
    assert prices.of({"optimizer.lr": 1e-3, "optimizer.name": "muon", "model.d_ff": 16}) is None
