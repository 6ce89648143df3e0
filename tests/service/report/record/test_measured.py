import pytest

from model.measurement.evaluation_record import Evaluation
from service.report.record.measured import convergence_improvement, figures
from service.report.record.metrics import FIGURES, metric


def of_run(*, curve, steps):
    return figures(
        config={}, curve=curve, noted={}, steps=steps, evaluations=(), parameters=None, train_tokens=None
    )


def test_every_field_of_an_evaluation_is_a_metric():
    assert set(Evaluation.__dataclass_fields__) <= set(FIGURES)


def test_convergence_is_computed_as_the_notebook_does():
    """Document 001's notebook: first n // 4 losses, and those from 3 * n // 4 on."""
    losses = [10.8, 8.0, 6.0, 5.0, 4.0, 3.5, 3.0]
    first, last = losses[: 7 // 4], losses[3 * 7 // 4 :]
    expected = (sum(first) / len(first) - sum(last) / len(last)) / (sum(first) / len(first))
    assert convergence_improvement(losses) == pytest.approx(expected)
    assert convergence_improvement(losses[:3]) is None


def test_a_metric_of_a_layer_has_its_familys_definition():
    found = metric("effective_step/blocks.1/p50")
    assert found.name == "effective_step/blocks.1/p50"
    assert "Adam" in found.definition


def test_memory_is_the_largest_of_a_run_and_counts_are_the_last():
    steps = [
        {"kind": "step", "memory_allocated_bytes": used, "loss_spikes": spikes}
        for used, spikes in ((5, 0), (9, 1), (7, 2))
    ]  # fmt: skip
    curve = [{"peak_memory_bytes": peak, "val_loss": 1.0} for peak in (10, 30, 20)]
    found = of_run(curve=curve, steps=steps)
    assert found["memory_allocated_bytes"] == 9
    assert found["peak_memory_bytes"] == 30
    assert found["loss_spikes"] == 2


def test_a_steps_figures_never_stand_for_those_of_the_run():
    step = {
        "kind": "step",
        "step": 1,
        "tokens": 8,
        "train_loss": 4.0,
        "learning_rate": 0.1,
        "tokens_per_second": 1.0,
    }
    found = of_run(curve=[], steps=[step])
    assert found["train_loss_final"] == 4.0
    for name in ("step", "tokens", "train_loss", "learning_rate", "tokens_per_second"):
        assert found[name] is None
