import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks import training
from tests.benchmarks.speed import ours, page, products, profiles, seeds_way, turns, workers
from tests.benchmarks.speed.shapes import TINY, write_tokens

RENAMED = {
    ".tokens.": ".token_embedding.",
    ".positions": ".position_embedding.weight",
    ".norm1.": ".attention_norm.",
    ".norm2.": ".mlp_norm.",
    ".norm.": ".final_norm.",
    ".qkv.": ".query_key_value.",
    ".out.": ".projection.",
    ".up.": ".mlp.up.",
    ".down.": ".mlp.down.",
}
"""The seeds' names, in our model."""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    with np.load(write_tokens(TINY, tmp_path_factory.mktemp("tokens"))) as arrays:
        return dict(arrays)


# The contenders


def copy_weights(theirs, our_model):
    """Our weights, in the seeds' model."""
    state = our_model.state_dict()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            name = f".{name}"
            for their_part, our_part in RENAMED.items():
                name = name.replace(their_part, our_part)
            parameter.copy_(state.pop(name.strip(".")).view_as(parameter))
    assert not state


@pytest.mark.parametrize("method", ["adamw", "asam"])
def test_ours_and_the_seeds_way_have_the_same_loss_before_and_after_updates(tokens, method):
    shape = replace(TINY, dropout=0.0)
    where = {"device": "cpu", "threads": torch.get_num_threads()}
    our_way = ours.Way(shape, method, tokens, **where, training={"precision": "fp32", "shuffle": False})
    their_way = seeds_way.Way(shape, method, tokens, **where)
    our_model = our_way.run.model
    copy_weights(their_way.model, our_model)
    inputs, targets = seeds_way.Stream(shape, tokens["validation"], "cpu").batch()

    def losses():
        with torch.no_grad():
            ours = F.cross_entropy(our_model(inputs).flatten(0, 1), targets.flatten())
            return ours.item(), their_way.model(inputs, targets)[1].item()

    first, theirs = losses()
    assert first == pytest.approx(theirs, abs=1e-5)
    our_way.take_steps(5)
    their_way.take_steps(5)
    last, theirs = losses()
    assert last < first - 1e-3
    assert last == pytest.approx(theirs, abs=1e-5)


def test_products_are_those_that_their_count_says(tokens):
    way = products.Way(TINY, "adamw", tokens, device="cpu", threads=torch.get_num_threads())
    with FlopCounterMode(display=False) as counter:
        way.take_steps(1)
    assert counter.get_total_flops() == way.flops_per_step


def test_tokens_are_the_same_for_every_process(tokens, tmp_path):
    with np.load(write_tokens(TINY, tmp_path)) as arrays:
        assert all(np.array_equal(tokens[name], arrays[name]) for name in ("train", "validation"))


# Profiles


@pytest.mark.parametrize(
    ("names", "kind", "phase"),
    [
        (["aten::addmm", "aten::linear", profiles.STEP], "matrix products", "forward"),
        (["aten::copy_", "aten::_to_copy", "aten::to", "aten::linear"], "casts and copies", "forward"),
        (
            ["aten::mm", "AddmmBackward0", "autograd::engine::evaluate_function: AddmmBackward0"],
            "matrix products",
            "backward",
        ),
        (
            ["aten::bmm", "BmmBackward0", "autograd::engine::evaluate_function: BmmBackward0"],
            "attention",
            "backward",
        ),
        (
            ["aten::mul", "MulBackward0", "autograd::engine::evaluate_function: MulBackward0"],
            "dropout",
            "backward",
        ),
        (["aten::_softmax", "aten::softmax"], "attention", "forward"),
        (["aten::_log_softmax", "aten::log_softmax", "aten::cross_entropy_loss"], "loss", "forward"),
        (["aten::copy_", "aten::to", "dropout"], "dropout", "forward"),
        (["aten::mul", "aten::_foreach_mul"], "optimizer", "optimizer"),
        (["aten::add_", "Optimizer.step#AdamW.step", "optimizer"], "optimizer", "optimizer"),
        (["aten::slice", "data"], "data", "data"),
        (["aten::add", profiles.STEP], "residual and other", "forward"),
        ([profiles.STEP], "Python and launching", "other"),
    ],
)
def test_operators_are_sorted_by_what_they_are_for(names, kind, phase):
    assert profiles.kind_of(names) == kind
    assert profiles.phase_of(names, kind) == phase


# The page


def contender(*step_seconds, **more):
    return {"step_seconds": list(step_seconds), "startup_seconds": 2.0, "peak_memory_bytes": 2**20} | more


def speed(**contenders):
    profile = {
        "phases": {"data": 0.1, "forward": 0.4, "backward": 0.3, "optimizer": 0.1, "other": 0.1},
        "kinds": {"attention": 0.25, "matrix products": 0.75},
        "seconds": 1.0,
        "kernel_seconds": 0.5,
        "table": "aten::addmm",
    }
    our_facts = {"precision": "bf16", "torch": "2", "next_trial_seconds": 0.5, "evaluation_seconds": 3.0}
    found = {
        "ours": contender(1.0, 2.0, 1.0, profile=profile, **our_facts),
        "seeds": contender(4.0, 4.0, 2.5),
        "transformers": {"missing": turns.NOT_INSTALLED},
        "products": {"flops_per_step": 6 * 10**12},
        "products bf16": contender(0.4, 0.8, 0.4),
    }
    return {
        "tokens_per_step": 100,
        "parameters": 1_234,
        "flops_per_token": 70 * 10**9,
        "trial_steps": 2_400,
        "machine": "a processor",
        "threads": 1,
        "date": "2026-01-01",
        "contenders": found | contenders,
    }


def row(text, *cells):
    (line,) = [line for line in text.splitlines() if line.startswith("| " + " | ".join(cells))]
    return line.strip("| ").split(" | ")


def test_the_page_says_what_the_records_say():
    text = page.render({"cpu": {"speed": {"2.56M adamw": speed()}}, "cuda": {}})
    # per round 4, 2 and 2.5 times as fast; 7 TFLOP a step in 1 s, where 6 TFLOP of products take 0.4 s
    assert row(text, "2.56M", "AdamW", "100")[3:] == [
        "1,000",
        "2.50 (2.25 to 3.25, asked 3: MISSED)",
        "not installed",
        "47% of 15,000 GFLOP/s",
        "-",
    ]
    assert row(text, "2.56M", "AdamW", "ours")[3:] == ["1,000", "100", "400", "300", "100", "100"]
    assert row(text, "2.56M", "AdamW", "3.00 s")[2:] == ["3.00 s", "2,400 s", "1.0%"]
    assert "matrix products 75%, attention 25%" in text


def test_what_has_no_record_is_not_measured():
    text = page.render({"cpu": {"speed": {"2.56M adamw": speed()}}})
    gpu = text.partition("## GPU")[2]
    assert "`make bench-gpu`" in gpu
    assert row(gpu, "27.2M", "ASAM")[2:] == ["not measured"] * 7
    assert row(text.partition("## GPU")[0], "12.2M", "AdamW")[2:] == ["not measured"] * 6
    assert "not measured" not in row(text.partition("## GPU")[0], "2.56M", "AdamW", "100")


def test_a_measurement_on_a_gpu_leaves_those_on_the_cpu(tmp_path):
    training.Records(tmp_path, "cpu").add("speed", "2.56M adamw", speed())
    before = (tmp_path / "training-cpu.json").read_bytes()
    waiting = contender(3.0, 3.0, 3.0)
    training.Records(tmp_path, "cuda").add("speed", "40M asam", speed(waiting=waiting))
    training.Records(tmp_path, "cuda").add("speed", "40M adamw", speed(waiting=waiting))
    assert (tmp_path / "training-cpu.json").read_bytes() == before
    assert json.loads((tmp_path / "training-cuda.json").read_text())["speed"].keys() == {
        "40M asam",
        "40M adamw",
    }
    cpu, _, gpu = (tmp_path / "training.md").read_text().partition("## GPU")
    assert row(cpu, "2.56M", "AdamW", "100")
    assert row(gpu, "40M", "ASAM", "100")[-2] == "47% of 15,000 GFLOP/s, asked 40%"
    assert row(gpu, "40M", "AdamW", "ours")[-1] == "2.00"  # 1 s a step with 0.5 s of kernels


def test_a_gpu_is_also_compared_with_itself_without_graphs():
    text = page.render({"cuda": {"speed": {"40M adamw": speed(waiting=contender(3.0, 3.0, 3.0))}}})
    assert row(text, "40M", "AdamW", "100")[6] == "3.00 (2.25 to 3.00)"  # per round 3, 1.5 and 3


def test_compiling_pays_when_its_steps_have_made_up_for_its_start():
    def timed(first, *steps):
        return {"first_step_seconds": first, "step_seconds": list(steps)}

    record = {"trial_steps": 2_400, "plain": timed(1.0, 0.4, 0.4, 0.8), "cold": timed(31.0)}
    faster = record | {"compiled": timed(6.0, 0.2, 0.3, 0.3)}
    slower = record | {"compiled": timed(6.0, 0.5, 0.5, 0.5)}
    text = page.render({"cpu": {"compile": {"2.56M": faster, "40M": slower}}})
    costs = ["1.0 s", "31.0 s", "6.0 s"]
    # 30 s and 5 s more, in steps of 0.3 s in place of 0.4 s
    gain = ["2.00 (1.67 to 2.33)", "300", "50", "2,400"]
    assert row(text, "2.56M", "1.0 s")[1:] == [*costs, "400", "300", *gain]
    assert row(text, "40M", "1.0 s")[-3:] == ["never", "never", "2,400"]


def groups(**tokens_per_second):
    return {
        "groups": [
            {"processes": int(name[1:]), "threads": 1, "mps": False, "tokens_per_second": [value] * 3}
            for name, value in tokens_per_second.items()
        ]
    }


def test_workers_on_a_gpu_are_as_many_as_gain_something():
    small, large = groups(n1=100, n2=190, n4=300, n8=305), groups(n1=100, n2=110, n4=112, n8=110)
    text = page.render({"cuda": {"workers": {"2.56M": small, "40M": large}}})
    assert "2: 1.45, 4: 1.83, 8: 1.83): 4 by these figures" in text
    text = page.render({"cuda": {"workers": {"40M": large}}})
    assert ": 2 by these figures" in text


def test_of_processes_that_a_gpu_has_no_memory_for_fewer_are_measured(monkeypatch):
    started = []

    @contextlib.contextmanager
    def start(*_, processes, **__):
        started.append(processes)
        if processes > 4:
            raise turns.ContenderEndedError("out of memory")
        yield [0] * processes

    monkeypatch.setattr(workers, "_started", start)
    monkeypatch.setattr(workers, "_throughput", lambda processes, *_: 100.0 * len(processes))
    found = workers.on_gpu(TINY, None, rounds=2, seconds=1, mps=(False,))
    assert started == [8, 4]
    assert [group.get("tokens_per_second") for group in found] == [
        [100.0] * 2,
        [200.0] * 2,
        [400.0] * 2,
        None,
    ]
    assert found[3]["missing"] == "out of memory"


def test_transformers_is_not_looked_for_where_it_cannot_be(tmp_path):
    assert not turns.has_transformers(None)
    assert not turns.has_transformers(str(tmp_path / "python"))


def test_muons_share_is_of_its_own_step():
    record = {
        "machine": "one", "threads": 1, "precision": "bf16", "date": "2026-11-25",
        "update_seconds": {"torch.optim.Muon": [1.0, 3.0, 1.0], "newton_schulz": [0.25, 0.75, 0.25]},
        "rest_seconds": [3.0, 9.0, 3.0],
    }  # fmt: skip
    text = page.render({"cpu": {"muon": {"2.56M": record}}})
    assert "| 2.56M | 3,000 | 25.0% (1,000) | 7.7% (250) |" in text


# All of it


@pytest.mark.slow
def test_everything_at_once_on_a_tiny_model(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(turns.COMPARED, "cpu", turns.COMPARED["cuda"])  # what a GPU does as well
    absent = str(tmp_path / "python")
    chosen = f"--quick --methods adamw --parts speed --results {tmp_path} --transformers {absent}"
    training.main(chosen.split())
    record = json.loads((tmp_path / "training-cpu.json").read_text())["speed"]["tiny adamw"]
    found = record["contenders"]
    rounds = {len(one["step_seconds"]) for one in found.values() if "step_seconds" in one}
    assert len(rounds) == 1
    assert rounds.pop() >= 3
    assert all(found[name]["peak_memory_bytes"] > 0 for name in ("ours", "seeds"))
    assert "profile" in found["ours"]
    assert "profile" not in found["waiting"]
    profile = found["seeds"]["profile"]
    assert all(value > 0 for value in profile["phases"].values())
    assert sum(profile["phases"].values()) == pytest.approx(profile["seconds"])
    assert sum(profile["kinds"].values()) == pytest.approx(profile["seconds"])
    lines = capsys.readouterr().out.splitlines()
    assert "| not installed |" in next(line for line in lines if line.startswith("| tiny | AdamW"))
    training.main(f"--quick --parts muon --results {tmp_path}".split())
    taken = json.loads((tmp_path / "training-cpu.json").read_text())["muon"]["tiny"]
    assert all(len(seconds) == 3 and min(seconds) > 0 for seconds in taken["update_seconds"].values())
    assert len(taken["rest_seconds"]) == 3
    assert min(taken["rest_seconds"]) > 0
    assert "aten::addmm" in (tmp_path / "profiles" / "cpu-tiny-adamw.txt").read_text()
