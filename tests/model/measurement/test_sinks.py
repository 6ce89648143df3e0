import math
import struct
import sys
from pathlib import Path

import pytest

from model.config.data import TokenizerConfig
from model.config.train_config import DiagnosticsConfig
from model.data.tokenized_corpus import TokenizedCorpus
from model.errors import ConfigError
from model.measurement.sinks import Curves
from model.training import TrainingRun
from tests.model.test_training import CPU, corpus, tiny_config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return TokenizedCorpus.prepare(
        corpus(), TokenizerConfig(vocab_size=300), cache=tmp_path_factory.mktemp("cache")
    )


@pytest.fixture(autouse=True)
def _places(tmp_path, monkeypatch):
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))


def new_run(data, **chosen):
    chosen = DiagnosticsConfig(**{"every": 3, "evaluation": True} | chosen)
    return TrainingRun(tiny_config().model_copy(update={"diagnostics": chosen}), data, device=CPU)


def drawn(run, folder, *, warnings=None):
    warn = pytest.fail if warnings is None else warnings.append
    return Curves(run, folder, group="study", name="7", warn=warn)


def tensorboard_curves(folder):
    """Every curve there as (step, value) pairs."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard is not installed"
    ).EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def wandb_curves(folder):
    """The same of the file of an offline run: a log of protocol buffers, in the blocks of LevelDB's."""
    wandb = pytest.importorskip("wandb", reason="Weights & Biases is not installed")
    wandb.teardown()  # its own process may still be writing
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    content, at = path.read_bytes(), 7
    curves: dict[str, list[tuple[int, float]]] = {}
    while at + 7 <= len(content):
        assert at // 2**15 == 0, "this reader knows one block"
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        assert kind == 1, "a record in one piece"
        record = pb.Record.FromString(content[at + 7 : at + 7 + length])
        at += 7 + length
        items = {
            item.key or "/".join(item.nested_key): float(item.value_json) for item in record.history.item
        }
        for name, value in items.items():
            if not name.startswith("_"):
                curves.setdefault(name, []).append((int(items["_step"]), value))
    return curves


def expected_curves(run):
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in run.diagnostics:
        prefix = "evaluation/" if record["kind"] == "evaluation" else ""
        for name, value in record.items():
            if name not in ("kind", "step") and not isinstance(value, list):
                curves.setdefault(prefix + name, []).append((record["step"], value))
    for name in ("val_loss", "train_loss", "perplexity"):
        curves[f"evaluation/{name}"] = [(e.step, getattr(e, name)) for e in run.evaluations]
    return curves


@pytest.mark.parametrize("sink", ["tensorboard", "wandb"])
def test_the_curves_are_those_of_the_records_and_evaluations_each_point_once(data, tmp_path, sink):
    pytest.importorskip(sink, reason=f"{sink} is not installed")
    run = new_run(data, **{sink: True if sink == "tensorboard" else "offline"})
    with drawn(run, tmp_path) as curves:
        for _ in run:
            curves.write()
    if sink == "tensorboard":
        got = tensorboard_curves(tmp_path / "tensorboard" / "study" / "7")
    else:
        got = wandb_curves(tmp_path)
    for name, points in expected_curves(run).items():
        # TensorBoard keeps fp32
        assert dict(got[name]) == pytest.approx(dict(points), rel=1e-6), name
        assert [step for step, _ in got[name]] == sorted(step for step, _ in got[name])
    assert len(got["evaluation/val_loss"]) == 4
    assert len(got["train_loss"]) == 2


def test_evaluations_are_drawn_where_nothing_else_is_measured(data, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    run = new_run(data, every=0, evaluation=False, tensorboard=True)
    with drawn(run, tmp_path) as curves:
        for _ in run:
            curves.write()
    got = tensorboard_curves(tmp_path / "tensorboard" / "study" / "7")
    assert [step for step, _ in got["evaluation/val_loss"]] == [2, 4, 6, 8]
    assert not any(name.startswith("grad_norm") for name in got)


def test_a_resumed_run_draws_what_was_before_and_a_second_attempt_replaces_the_first(data, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    run = new_run(data, tensorboard=True)
    with drawn(run, tmp_path) as curves:
        for _ in zip(range(2), run, strict=False):
            curves.write()
    run.save(tmp_path / "state")
    resumed = TrainingRun.resumed(tmp_path / "state", run.config, data, device=run.device)
    with drawn(resumed, tmp_path) as curves:
        for _ in resumed:
            curves.write()
    got = tensorboard_curves(tmp_path / "tensorboard" / "study" / "7")
    assert [step for step, _ in got["evaluation/val_loss"]] == [2, 4, 6, 8]
    assert [step for step, _ in got["train_loss"]] == [3, 6]


def test_a_value_that_is_not_finite_is_drawn_as_nan(data, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    run = new_run(data, tensorboard=True)
    list(run)
    run.diagnostics[1]["grad_norm"] = None
    with drawn(run, tmp_path):
        pass
    (_, value), _ = tensorboard_curves(tmp_path / "tensorboard" / "study" / "7")["grad_norm"]
    assert math.isnan(value)


@pytest.mark.parametrize(
    ("chosen", "package", "said"),
    [
        (
            {"tensorboard": True},
            "tensorboard",
            "diagnostics.tensorboard: given true, .* pip install tensorboard",
        ),
        ({"wandb": "offline"}, "wandb", "diagnostics.wandb: given offline, .* pip install wandb"),
    ],
)
def test_a_sink_that_is_not_installed_is_refused_in_one_line(
    data, tmp_path, monkeypatch, chosen, package, said
):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ConfigError, match=said) as caught:
        drawn(new_run(data, **chosen), tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_and_biases_without_a_login_is_refused_in_one_line(data, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="Weights & Biases is not installed")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where a login would be kept
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(
        ConfigError, match=r"diagnostics\.wandb: given online, and Weights & Biases says: "
    ) as caught:
        drawn(new_run(data, wandb="online"), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_costs_the_curves_and_not_the_run(data, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    run = new_run(data, tensorboard=True)
    warnings = []
    with drawn(run, tmp_path, warnings=warnings) as curves:
        for _ in run:
            curves.write()
    assert run.finished
    assert len(warnings) == 1
    assert warnings[0].startswith("curves not written: ")


def test_no_sink_writes_nothing(data, tmp_path):
    with drawn(new_run(data), tmp_path) as curves:
        curves.write()
    assert list(Path(tmp_path).iterdir()) == []
