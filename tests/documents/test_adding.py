"""The worked examples of `docs/adding.md`: each is put into a copy of the project, and tried there."""

import re
import shutil
import subprocess
import sys
import textwrap

import pytest

from tests.documents.pages import ROOT

PAGE = ROOT / "docs" / "adding.md"


def examples():
    """Title of each part of the page, with its changes: a file, the lines that stand there, those that shall."""
    found = {}
    for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        changes = re.findall(r'^```diff title="([^"]+)"\n(.*?)^```$', part, re.DOTALL | re.MULTILINE)
        if changes:
            found[part.splitlines()[0]] = [
                (file, side(diff, "-"), side(diff, "+"))  # as they are, and as they are to be
                for file, diff in changes
            ]
    return found


def side(diff, mark):
    return "".join(line[1:] for line in diff.splitlines(keepends=True) if line[0] in (" ", mark))


def test_every_line_that_an_example_begins_from_stands_once_in_its_file():
    parts = examples()
    assert len(parts) == 4
    for changes in parts.values():
        for file, before, after in changes:
            assert after != before
            assert ("\n" + (ROOT / file).read_text()).count("\n" + before) == 1, f"{file}: {before}"


TRIED = {
    "An optimizer: NAdam": """
        import torch
        from model.config.optimization import OptimizerConfig
        from model.optimization.optimizer import build
        from torch import nn
        def made():
            model = nn.Linear(3, 2)
            return model, build(model, OptimizerConfig(name="nadam"), device=torch.device("cpu"))
        model, optimizers = made()
        model(torch.ones(3)).sum().backward()
        optimizers.step()
        state = optimizers.flat_state()
        _, again = made()
        again.load_flat_state(state)
        assert {key: tensor.tolist() for key, tensor in again.flat_state().items()} == {
            key: tensor.tolist() for key, tensor in state.items()}
    """,
    "An option of the model: a norm on the embeddings": """
        from model.config import yaml_tree
        from model.config.counts import parameter_count
        from model.config.section import validate
        from model.config.train_config import TrainConfig
        from model.network.gpt import GPT
        document = yaml_tree.read("train_config.yaml").with_overrides(
            {"model.embedding_norm": True, "model.n_layer": 1, "tokenizer.vocab_size": 300})
        config = validate(document, TrainConfig)
        model = GPT(config, seed=1)
        assert sum(p.numel() for p in model.parameters()) == parameter_count(config)
        assert model.embedding_norm.weight.shape == (config.model.d_model,)
    """,
    "A sampler: NSGA-II": """
        import optuna
        from pydantic import TypeAdapter
        from service.study.samplers import SamplerConfig, build_sampler
        section = TypeAdapter(SamplerConfig).validate_python({"name": "genetic", "population": 4})
        space = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
        study = optuna.create_study(sampler=build_sampler(section, seed=1, space=space))
        study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=12)
        assert study.best_value < 0.2
    """,
    "A command: how many trials there are": """
        from click.testing import CliRunner
        from service.__main__ import cli
        assert "How many trials of each state" in CliRunner().invoke(cli, ["--help"]).output
        done = CliRunner().invoke(cli, ["count", "nosuch"])
        assert done.exit_code == 2 and "error: " in done.output, done.output
    """,
}


@pytest.mark.slow
def test_the_examples_work(tmp_path):
    for room in ("model", "service", "studies"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("train_config.yaml", "requirements.lock"):
        shutil.copy(ROOT / file, tmp_path)
    parts = examples()
    assert parts.keys() == TRIED.keys()
    for changes in parts.values():
        for file, before, after in changes:
            path = tmp_path / file
            path.write_text(path.read_text().replace(before, after))
    code = "\n".join(
        textwrap.dedent(each) for each in TRIED.values()
    )  # in one process: torch is imported once
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
