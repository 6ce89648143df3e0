import contextlib
import math

import pytest
from optuna.trial import create_trial

from service.storage.opened_study import open_study
from service.storage.seed_noise import noise_between_seeds, pooled_sd
from service.storage.studies import StudyError


def test_deviations_are_pooled_over_the_configurations_by_their_degrees_of_freedom():
    # variances 1 (n 3) and 2 (n 2): (2 · 1 + 1 · 2) / 3
    found = pooled_sd(
        {"a": {1: 1.0, 2: 2.0, 3: 3.0}, "b": {1: 4.0, 2: 6.0}, "c": {1: 9.0}, "d": {1: math.inf, 2: 1.0}}
    )
    assert found == (pytest.approx(math.sqrt(4 / 3)), 5)
    assert pooled_sd({"a": {1: 1.0}}) is None


def test_a_study_without_a_second_seed_says_nothing_and_one_with_them_does(tiny):
    tiny.create(1)
    with contextlib.closing(open_study(tiny.settings, "tiny")) as opened:

        def add(arm, value):
            opened.study.add_trial(create_trial(value=value, user_attrs={"arm": arm}))

        def noise():
            return noise_between_seeds(opened.storage, "tiny", opened.settings)

        add("A", 1.0)
        add("B", 3.0)
        with pytest.raises(StudyError, match=r"^stop\.noise: study 'tiny' has no configuration with"):
            noise()
        add("A", 3.0)
        assert noise() == (pytest.approx(math.sqrt(2)), 2)
        with pytest.raises(StudyError, match="is not in"):
            noise_between_seeds(opened.storage, "other", opened.settings)
