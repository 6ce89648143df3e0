"""A study that others learn from, and one that does."""

import contextlib

from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from service.storage.opened_study import open_study

EARLIER = """\
space:
  optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-1, log: true}
sampler: {name: random}
"""
LR = {"optimizer.lr": FloatDistribution(1e-4, 1e-1, log=True)}
NOW = """\
space:
  optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
  model.dropout: {type: float, low: 0.0, high: 0.3}
  schedule.decay: {type: categorical, choices: [cosine, linear]}
"""


def results(tiny, name, *losses):
    with contextlib.closing(open_study(tiny.settings, name)) as opened:
        for i, loss in enumerate(losses):
            params = {"optimizer.lr": 10.0 ** (-4 + 3 * i / max(1, len(losses) - 1))}
            opened.study.add_trial(create_trial(value=loss, params=params, distributions=LR))
