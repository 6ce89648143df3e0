"""Steps that a GPU is ahead of: recorded gradients and queued steps.

Each test runs on a CPU, where a recording is the computation itself, done again; and where there is a GPU, also there.
"""

import copy
import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from model.config.data import TokenizerConfig
from model.config.train_config import DiagnosticsConfig, TrainConfig
from model.data.tokenized_corpus import TokenizedCorpus
from model.errors import Diverged
from model.hardware.cuda_graph import RecordedGradient, RecordedUpdate
from model.hardware.device import Device
from model.hardware.precision import LossScaler, Precision
from model.network.gpt import GPT
from model.network.loss import add_gradient
from model.optimization.optimizer import Optimizers, build
from model.training import TrainingRun
from tests.model.test_training import (
    BATCH,
    OPTIMIZERS,
    STEP_TOKENS,
    assert_same_bits,
    corpus,
    from_state,
    tiny_config,
    without_clocks,
)

pytestmark = pytest.mark.usefixtures("one_thread")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


class Ahead(Device):
    """A GPU, or a CPU that does as one."""

    def __init__(self, where):
        super().__init__(where, 1, runs_ahead=True)

    def capture(self, compute):
        if self.torch_device.type == "cuda":
            return super().capture(compute)
        result = compute()
        return lambda: result.copy_(compute()), result


def plain(where):
    return Device(where, 1)


class Refusing(Ahead):
    """A GPU on which no graph can be made."""

    def capture(self, compute):
        compute()
        raise RuntimeError("out of memory")


class BreakingOff(Ahead):
    """A GPU on which a capture ends as torch ends it when a value has been read in its middle."""

    def capture(self, compute):
        try:
            compute()
            raise RuntimeError("a value was read")
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904


class BreakingOffLater(Ahead):
    """A GPU whose second capture breaks off, and takes the first one's random numbers with it."""

    captures = 0
    broken = 0

    def capture(self, compute):
        BreakingOffLater.captures += 1
        if self.captures == 2:
            compute()
            BreakingOffLater.broken = 2
            raise RuntimeError("out of memory")
        replay, result = super().capture(compute)
        number = self.captures

        def replay_unless_lost():
            if number < self.broken:
                self.generator.manual_seed(0)
            replay()

        return replay_unless_lost, result


class Wrong(Ahead):
    """A GPU that replays with other random numbers."""

    def capture(self, compute):
        replay, result = super().capture(compute)

        def with_others():
            self.generator.manual_seed(0)
            replay()

        return with_others, result


@pytest.fixture(params=DEVICES)
def where(request):
    return torch.device(request.param)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return TokenizedCorpus.prepare(
        corpus(), TokenizerConfig(vocab_size=300), cache=tmp_path_factory.mktemp("cache")
    )


def new_run(data, device, *, every=0, **config):
    chosen = tiny_config(**config).model_copy(update={"diagnostics": DiagnosticsConfig(every=every)})
    return TrainingRun(chosen, data, device=device)


def assert_same(run, other):
    """To the bit on a CPU. Kernels of a GPU add up in an order of their own, and Adam makes much of rounding."""
    if run.device.torch_device.type == "cpu":
        assert_same_bits(run, other)
        return
    assert run.step == other.step
    seen = [
        [(rung.val_loss, rung.train_loss, rung.gradient_norm) for rung in one.evaluations]
        for one in (run, other)
    ]
    # other dropout masks change the norm by 2 % and more
    assert np.array(seen[0]) == pytest.approx(np.array(seen[1]), rel=5e-3)


RUNS = [
    *({"optimizer": name} for name in OPTIMIZERS),
    {"micro_batch_size": 3},
    {"micro_batch_size": 1, "optimizer": "sam"},
    {"r_drop": 1.0},
    {"ema": 0.9},
]


@pytest.mark.parametrize("config", RUNS, ids=str)
def test_running_ahead_changes_nothing(data, where, config, monkeypatch):
    captured = []
    capture = Ahead.capture
    monkeypatch.setattr(Ahead, "capture", lambda *arguments: captured.append(1) or capture(*arguments))
    waiting, ahead = (new_run(data, kind(where), **config) for kind in (plain, Ahead))
    for one, other in zip(waiting, ahead, strict=True):
        assert without_clocks([one])[0].keys() == without_clocks([other])[0].keys()
        assert ahead.evaluated_model.training == ahead.model.training
    assert_same(ahead, waiting)
    sizes = {BATCH % (micro := config.get("micro_batch_size", BATCH)), micro} - {0}
    # once for every size of a micro-batch, and once for an update of many kernels
    assert len(captured) == len(sizes) + (OPTIMIZERS[config.get("optimizer", "adamw")]["name"] == "muon")


def test_a_run_ahead_that_is_stopped_and_restored_ends_as_if_it_had_not_been(data, where, tmp_path):
    waiting, stopped = (new_run(data, kind(where)) for kind in (plain, Ahead))
    list(waiting)
    next(iter(stopped))
    stopped.train_steps(1)
    stopped.save(tmp_path / "state")
    resumed = from_state(tmp_path / "state", stopped, data)
    list(resumed)
    assert_same(resumed, waiting)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_outcome_of_a_step_is_looked_at_when_the_next_one_is_queued(data, where, optimizer):
    run = new_run(data, Ahead(where), optimizer=optimizer)
    run._train_step()
    assert math.isnan(run._gradient_norm)
    first = run._queued
    run._train_step()
    assert run._queued is not first
    assert run._gradient_norm == first.result().grad_norm
    run._finish_steps()
    assert run._queued is None


@pytest.mark.parametrize(
    ("optimizer", "every", "at"),
    [*itertools.product(["sam"], [0, 1, 4, 5], [3, 4]), ("sgd", 0, 3), ("muon", 0, 3), ("muon", 4, 4)],
)
def test_divergence_is_told_of_its_step_with_the_weights_before_it(data, where, every, at, optimizer):
    told = []
    for kind in (plain, Ahead):
        run = new_run(data, kind(where), every=every, optimizer=optimizer)
        next(iter(run))
        run.train_steps(at - 1 - run.step)
        with torch.no_grad():
            run.model.blocks[0].mlp.up.weight[0, 0] = math.nan
        before = copy.deepcopy(run.model.state_dict())
        state = copy.deepcopy(run.optimizers.flat_state())
        with pytest.raises(Diverged) as caught:
            list(run)
        for now, then in ((run.model.state_dict(), before), (run.optimizers.flat_state(), state)):
            assert all(torch.equal(now[key].nan_to_num(9), then[key].nan_to_num(9)) for key in then)
        records = [(record["step"], record.get("diverged")) for record in run.diagnostics]
        told.append((str(caught.value), run.step, run._steps_since_rung, records))
    assert told[0] == told[1]
    assert told[1][1] == at - 1


def test_measured_steps_are_waited_for_and_the_others_counted(data, where):
    waiting, ahead = (new_run(data, kind(where), every=3) for kind in (plain, Ahead))
    list(waiting), list(ahead)
    assert_same(ahead, waiting)
    steps = [[record["step"] for record in run.diagnostics] for run in (waiting, ahead)]
    assert steps[0] == steps[1]
    assert {3, 6} <= set(steps[0])


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Refusing, "out of memory"), (BreakingOff, "a value was read"), (Wrong, "a replay is off by")],
)
def test_without_a_good_recording_training_goes_on_as_without_one(data, where, kind, message):
    waiting, ahead = (new_run(data, one(where), dropout=0.5, optimizer="asam") for one in (plain, kind))
    list(waiting)
    with pytest.warns(RuntimeWarning, match=f"without a CUDA graph: {message}") as warned:
        list(ahead)
    assert len(warned) == 1
    assert_same(ahead, waiting)


def test_without_a_recorded_gradient_no_update_is_recorded(data, where, monkeypatch):
    # gradients made anew may lie where those of the step before lay
    monkeypatch.setattr(RecordedUpdate, "__call__", lambda *_: pytest.fail("asked for"))
    run = new_run(data, Refusing(where), optimizer="muon")
    with pytest.warns(RuntimeWarning, match="without a CUDA graph: out of memory") as warned:
        list(run)
    assert len(warned) == 1


def test_a_recording_that_breaks_off_leaves_none_in_use_that_was_checked_before_it(data, where):
    BreakingOffLater.captures = BreakingOffLater.broken = 0
    config = {"dropout": 0.5, "optimizer": "sam", "micro_batch_size": 3}
    waiting, ahead = (new_run(data, one(where), **config) for one in (plain, BreakingOffLater))
    list(waiting)
    with pytest.warns(RuntimeWarning, match="without a CUDA graph: out of memory") as warned:
        list(ahead)
    assert len(warned) == 1
    assert BreakingOffLater.captures == 3  # the first shape's is made and checked anew
    assert_same(ahead, waiting)


def test_fp16_is_neither_recorded_nor_queued(data, where, monkeypatch):
    monkeypatch.setattr("model.hardware.precision.LossScaler", lambda **_: LossScaler(enabled=True))
    run = new_run(data, Ahead(where))
    run.train_steps(2)
    assert run._queued is None
    assert not isinstance(run._add_gradient, RecordedGradient)


# The recording by itself


def sum_of_products(where):
    """A gradient that can be told by hand: that of Σ w x y is Σ x y."""
    weight, unused = (nn.Parameter(torch.ones((), device=where)) for _ in range(2))

    def add(inputs_BT, targets_BT):
        loss = (weight * inputs_BT * targets_BT).sum()
        loss.backward()
        return loss.detach()

    return RecordedGradient(add, [weight, unused], Ahead(where)), weight, unused


def test_replays_add_to_the_gradient_until_it_is_dropped(where):
    gradient, weight, unused = sum_of_products(where)
    one, two = (torch.full((2, 3), value, device=where) for value in (1.0, 2.0))
    assert gradient(one, two).item() == 12
    assert weight.grad.item() == 12
    assert gradient(two, two).item() == 24
    assert weight.grad.item() == 36
    weight.grad = None
    gradient(one, one)
    assert weight.grad.item() == 6
    weight.grad = torch.full_like(weight, 100)  # of somebody else
    gradient(one, one)
    assert weight.grad.item() == 106
    assert unused.grad is None


def test_another_shape_is_recorded_without_touching_what_was_added(where):
    gradient, weight, _ = sum_of_products(where)
    gradient(torch.ones(2, 3, device=where), torch.ones(2, 3, device=where))
    small = torch.ones(1, 3, device=where)
    assert gradient(small, small).item() == 3
    assert weight.grad.item() == 9
    assert gradient(small, 2 * small).item() == 6
    assert weight.grad.item() == 15


# An update by itself


def test_an_update_is_recorded_once_nothing_moves_and_the_recording_changes_nothing(where):
    value, step, ended = (torch.full((), number, device=where) for number in (0.0, 1.0, 0.0))
    captures = []

    class Counting(Ahead):
        def capture(self, compute):
            captures.append(compute)
            return super().capture(compute)

    def update():
        value.add_(torch.where(ended > 0, 0, step))

    recorded = RecordedUpdate(update, ended, Counting(where))
    recorded([value, step])
    assert (value.item(), len(captures)) == (1, 0)
    recorded([value, step])
    assert (value.item(), len(captures)) == (2, 1)
    step.fill_(10)
    recorded([value, step])
    assert (value.item(), len(captures), ended.item()) == (12, 1, 0)
    step = torch.full((), 100.0, device=where)  # somewhere else in memory
    recorded([value, step])
    assert (value.item(), len(captures)) == (112, 1)
    recorded([value, step])
    ended.fill_(1)
    recorded([value, step])
    assert (value.item(), len(captures)) == (212, 2)


def test_an_update_that_cannot_be_recorded_is_made_all_the_same(where):
    value, ended = torch.zeros((), device=where), torch.zeros((), device=where)
    recorded = RecordedUpdate(lambda: value.add_(1 - ended), ended, Refusing(where))
    recorded([value])
    with pytest.warns(RuntimeWarning, match="without a CUDA graph: out of memory"):
        recorded([value])
    recorded([value])
    assert (value.item(), ended.item()) == (3, 0)


# What is recorded

PARTS = [
    {},
    {"model": {"norm": "rmsnorm", "positions": "rope", "attention": "document", "output_gate": True}},
    {"model": {"qk_norm": True, "value_residual": True, "layer_scale": 0.1, "logit_softcap": 30.0}},
    {"model": {"positions": "sinusoidal", "activation": "swiglu", "tied": False, "bias": False}},
    {"model": {"norm_position": "post", "embedding_scale": "sqrt_d_model", "attention_dropout": 0.3}},
    {"training": {"r_drop": 1.0, "label_smoothing": 0.1, "z_loss": 1e-4}},
]


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_a_gradient_reads_nothing_back_from_its_device(parts):
    tree = json.loads(tiny_config(dropout=0.2).model_dump_json())
    for section, values in parts.items():
        tree[section] |= values
    config = TrainConfig.model_validate_json(json.dumps(tree))
    # numbers on this device are not there at all: to look at one is an error
    model = GPT(config, seed=1, eos_id=0).to("meta")
    tokens_BT = torch.zeros(BATCH, config.model.block_size, dtype=torch.int64, device="meta")
    loss = add_gradient(
        model, tokens_BT, tokens_BT, config.training, tokens=STEP_TOKENS,
        precision=Precision("fp32", "", "cpu"), scaler=LossScaler(enabled=False),
    )  # fmt: skip
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(RuntimeError, match="meta"):
        loss.item()


@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_an_update_that_may_be_taken_back_reads_nothing_from_its_device(name):
    config = tiny_config(optimizer=name)
    model = GPT(config, seed=1, eos_id=0).to("meta")
    built = build(model, config.optimizer, device=torch.device("meta"))
    kinds = [
        one for one in built._optimizers if not isinstance(one, torch.optim.Adam)
    ]  # whose own kernel decides
    optimizers = Optimizers(*kinds)
    for parameter in optimizers.parameters:
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(2):  # the second one with momentum
        optimizers.step_unless_ended(torch.ones(2, device="meta"))
