import shlex

from model.config.section import validate
from model.config.train_config import TrainConfig
from model.config.yaml_tree import parse, parse_overrides, read
from tests.conftest import ROOT
from tests.service.winner.asking import best_trial, invoke, trained


def test_the_best_configuration_is_a_file_that_trains_it(finished):
    done = invoke(finished, "best", "tiny")
    assert done.exit_code == 0, done.output
    best = best_trial(finished)
    assert validate(parse(done.stdout, name="best"), TrainConfig) == trained(best)
    assert f"# val_loss {best.value:.4f} nats per character\n" in done.stdout
    assert "the best of 3 complete trials on one seed, not confirmed" in done.stdout.splitlines()[0]


def test_overrides_of_the_base_file_give_the_same_configuration(finished):
    words = shlex.split(invoke(finished, "best", "tiny", "--as", "overrides").stdout)
    assert words[::2] == ["--set"] * (len(words) // 2)
    base = read(ROOT / "train_config.yaml").with_overrides(parse_overrides(words[1::2]))
    assert validate(base, TrainConfig) == trained(best_trial(finished))


def test_the_difference_to_the_baseline_names_what_was_searched(finished):
    best = best_trial(finished)
    shown = invoke(finished, "best", "tiny", "--as", "difference", "--trial", best.number).stdout
    assert ("optimizer.lr" in shown) == (best.number != 0)  # trial 0 is the baseline itself
    others = [trial.number for trial in finished.trials() if trial.number]
    shown = invoke(finished, "best", "tiny", "--as", "difference", "--trial", others[0]).stdout
    lr = finished.trials()[others[0]].params["optimizer.lr"]
    assert ["optimizer.lr", "0.001", str(lr)] in [line.split() for line in shown.splitlines()]
    assert "training." not in shown
