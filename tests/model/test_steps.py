import json
import math

import pytest
import torch

from model.config.data import TokenizerConfig
from model.config.train_config import TrainConfig
from model.data.tokenized_corpus import TokenizedCorpus
from model.errors import Diverged
from model.training import TrainingRun
from tests.model.test_training import CPU, corpus, new_run, tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return TokenizedCorpus.prepare(
        corpus(), TokenizerConfig(vocab_size=300), cache=tmp_path_factory.mktemp("cache")
    )


def test_epochs_are_turned_into_tokens_of_the_train_split(data):
    run = new_run(data, epochs=0.5, tokens=None)
    assert run.config.budget_tokens == round(0.5 * data.split("train").n_tokens)
    assert run.config.training.epochs is None


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "sam"])
def test_micro_batches_give_the_gradient_of_the_whole_batch(data, micro_batch_size, optimizer):
    config = {"steps": 1, "rungs": 1, "dropout": 0.0, "optimizer": optimizer}
    whole, parts = new_run(data, **config), new_run(data, micro_batch_size=micro_batch_size, **config)
    whole.train_steps(1), parts.train_steps(1)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        # the same sum in another order: fp32 rounding of gradients below 1, each part of them
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6)


def test_micro_batches_drop_different_units_out(data):
    config = {"steps": 1, "rungs": 1, "dropout": 0.5, "optimizer": "sgd"}
    run = new_run(data, micro_batch_size=2, **config)
    inputs, targets = run.stream.batch(0)
    inputs[2:], targets[2:] = inputs[:2], targets[:2]

    class SameHalves:
        def batch(self, step):
            return inputs, targets

    run.stream = SameHalves()
    run.train_steps(1)
    half = new_run(data, **config)

    class OneHalf:
        def batch(self, step):
            return inputs[:2], targets[:2]

    half.stream = OneHalf()
    half.train_steps(1)
    # with the same masks in both halves the mean gradient would be that of one half
    gradients = [r.model.token_embedding.weight.grad for r in (run, half)]
    assert (gradients[0] - gradients[1]).norm() > 0.1 * gradients[1].norm()


def test_same_dropout_decides_whether_sams_second_pass_draws_new_masks(data):
    first, second = {}, {}
    for same in (True, False):
        config = tiny_config(steps=1, rungs=1, dropout=0.5, optimizer="sam").model_dump(mode="json")
        config["optimizer"]["sharpness"] |= {"same_dropout": same, "rho": 1e-9}
        run = TrainingRun(TrainConfig.model_validate_json(json.dumps(config)), data, device=CPU)
        plain = TrainingRun(tiny_config(steps=1, rungs=1, dropout=0.5, optimizer="adamw"), data, device=CPU)
        run.train_steps(1), plain.train_steps(1)
        first[same] = plain.model.token_embedding.weight.grad
        second[same] = run.model.token_embedding.weight.grad
    # with a radius of nothing the second gradient is the first one, unless other units drop out
    torch.testing.assert_close(second[True], first[True], rtol=1e-4, atol=1e-6)
    assert (second[False] - first[False]).norm() > 0.1 * first[False].norm()


def test_train_steps_stops_at_the_budget_and_reports_the_seconds(data):
    run = new_run(data, steps=4)
    assert run.train_steps(3) > 0
    assert run.step == 3
    run.train_steps(3)
    assert run.step == 4
    assert run.evaluations == []


def test_a_nan_weight_ends_in_diverged_with_the_other_weights_untouched(data):
    run = new_run(data)
    next(iter(run))
    with torch.no_grad():
        run.model.blocks[0].mlp.up.weight[0, 0] = math.nan
    before = {key: tensor.clone() for key, tensor in run.model.state_dict().items()}
    with pytest.raises(Diverged):
        list(run)
    after = run.model.state_dict()
    assert all(torch.equal(after[k].nan_to_num(9), before[k].nan_to_num(9)) for k in before)
    assert run.step == 2
