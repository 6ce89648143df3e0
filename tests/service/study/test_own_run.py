import pytest

from model.config.yaml_tree import parse
from model.errors import ConfigError
from service.study import definition
from service.study.own_code import OwnCodeError
from service.study.own_run import BudgetConfig, OwnConfig, OwnRunKind, imported
from tests.own_code import BASE, RUN, altered, write_own

BUDGET = BudgetConfig(amount=9, unit="strides", rungs=3)
WITH_SCHEMA = (
    RUN.replace(
        "class Run:\n",
        """import pydantic


class Config(pydantic.BaseModel):
    seed: int
    rate: float = pydantic.Field(gt=0, lt=1)
    kind: str = "plain"
    sizes: list[int] = [3]

    @pydantic.model_validator(mode="after")
    def agrees(self):
        if self.kind == "steep" and self.rate < 0.2:
            raise ValueError("a steep one needs a rate of 0.2 or more")
        return self


class Run:
    Config = Config
""",
    )
    .replace('config["seed"]', "config.seed")
    .replace('config["rate"]', "config.rate")
)


def test_a_configuration_has_budget_and_rungs_from_the_study_and_the_rest_from_the_file():
    config = OwnConfig({"seed": 3, "net": {"width": 8}}, 10, 4)
    assert config.seed == 3
    assert config.rungs == (2, 5, 7, 10)
    assert config.with_tokens(2).rungs == (1, 2)
    assert config.with_seed(4).model_dump(mode="json") == {"seed": 4, "net": {"width": 8}}
    assert config.with_seed(3) == config


def test_equal_configurations_have_the_same_text():
    one, other = OwnConfig({"seed": 3, "lr": 1}, 10, 4), OwnConfig({"lr": 1.0, "seed": 3}, 10, 4)
    assert one.model_dump_json() == other.model_dump_json()
    assert one.model_dump_json() != one.with_tokens(9).model_dump_json()
    assert one.model_dump_json() != OwnConfig({"seed": 3, "lr": True}, 10, 4).model_dump_json()


def test_a_study_is_read_with_its_class_and_read_back_from_the_storage_without(tmp_path, monkeypatch):
    file = write_own(tmp_path / "down", source=WITH_SCHEMA, base="seed: 1\nrate: 0.5\n")
    loaded = definition.load(file)
    assert loaded.base.values == {"seed": 1, "rate": 0.5, "kind": "plain", "sizes": [3]}
    assert loaded.base_config.rungs == (3, 6, 9)
    assert (loaded.words.metric, loaded.words.budget) == ("height", "strides")
    snapshot = loaded.snapshot()
    (file.parent / "falling.py").write_text("raise ImportError('not there')\n")
    stored = definition.StudyDefinition.from_snapshot(snapshot)
    assert stored.base_config == loaded.base_config
    assert stored.identity() == loaded.identity()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base": BASE + "rat: 3\n"}, "down/config.yaml:4: rat: unknown key"),
        ({"base": "seed: 1\nrate: 1.5\n"}, "down/config.yaml:2: rate: must be less than 1, given 1.5"),
        ({"base": "rate: 0.5\n"}, "down/config.yaml:1: seed: missing key"),
        (
            {"body": "space:\n  speed: {type: float, low: 0.1, high: 0.2}\n"},
            "study.yaml:7: speed: unknown key",
        ),
        (
            {"body": "space:\n  rate: {type: float, low: 0.1, high: 1.2}\n"},
            "at rate 1.2: rate: must be less than 1",
        ),
        (
            {
                "body": "space:\n  rate: {type: float, low: 0.1, high: 0.4}\n"
                "  kind: {type: categorical, choices: [plain, steep]}\n"
            },
            "a steep one needs a rate of 0.2 or more",
        ),
        ({"body": "space:\n  seed: {type: int, low: 1, high: 5}\n"}, "seed: not a parameter to search"),
    ],
)
def test_what_the_model_of_the_class_refuses_is_refused_by_key(tmp_path, monkeypatch, change, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        definition.load(
            write_own(tmp_path / "down", source=WITH_SCHEMA, **{"base": "seed: 1\nrate: 0.5\n"} | change)
        )
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"body": "space:\n  rat: {type: float, low: 0.1, high: 0.2}\n"},
            "rat: unknown key, did you mean 'rate'?",
        ),
        (
            {"body": "space:\n  rate: {type: categorical, choices: [0.1, fast]}\n"},
            'rate: given "fast", must be a number as in ',
        ),
        ({"body": "space:\n  kind: {type: int, low: 1, high: 3}\n"}, "kind: given 1, must be a text as in "),
        ({"body": "design:\n  grid: {kind: [a, 3]}\n"}, "kind: given 3, must be a text as in "),
        ({"head": "run: falling:Run\nquestion: x?\nbase: config.yaml\n"}, "run needs a budget"),
        ({"head": "run: falling:Run\nquestion: x?\nbudget: {amount: 3}\n"}, "run needs a base"),
        ({"head": "question: x?\nmetric: height\n"}, "metric has no effect without run"),
    ],
)
def test_without_a_model_the_base_file_says_what_there_is(tmp_path, monkeypatch, change, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        definition.load(write_own(tmp_path / "down", **change))
    assert said in str(raised.value)


def test_keys_that_the_gpt_has_too_mean_nothing_of_ours(tmp_path):
    base = "seed: 1\nrate: 0.1\ntraining: {epochs: 3, rungs: 2}\ndata: {path: x}\n"
    body = "design:\n  grid: {training.epochs: [4, 5], data.path: [a, b]}\n"
    loaded = definition.load(write_own(tmp_path / "down", base=base, body=body))
    assert loaded.cells[1] == {"training.epochs": 4, "data.path": "a"}
    assert len(loaded.cells) == 5
    stored = definition.StudyDefinition.from_snapshot(loaded.snapshot())
    assert stored.cells == loaded.cells


def test_a_class_that_lacks_a_part_is_told_which(tmp_path):
    source = altered("def restore", "def take_up").replace("def stop", "def halt")
    with pytest.raises(OwnCodeError, match="run: falling:Run: the class has no restore and no stop"):
        definition.load(write_own(tmp_path / "down", source=source))


@pytest.mark.parametrize(
    ("taken", "has", "must"),
    [
        (
            "__init__(self, config, rungs, device)",
            "__init__(self, config)",
            "__init__(self, config, rungs, device)",
        ),
        ("save(self, folder)", "save(self)", "save(self, folder)"),
        ("restore(self, folder)", "restore(self, folder, at)", "restore(self, folder)"),
        ("stop(self)", "stop(self, now)", "stop(self)"),
        ("__iter__(self)", "__iter__()", "__iter__(self)"),
    ],
)
def test_a_part_that_cannot_be_called_is_told_before_any_trial(tmp_path, taken, has, must):
    with pytest.raises(OwnCodeError) as raised:
        definition.load(write_own(tmp_path / "down", source=altered(taken, has)))
    assert str(raised.value) == f"run: falling:Run: given {has}, must be {must}"


def test_a_part_that_takes_more_than_it_has_to_is_taken(tmp_path):
    source = altered("(self, config, rungs, device)", "(self, config, *, device, rungs, **more)")
    source = source.replace("def stop(self)", "def stop(self, *_)")
    definition.load(write_own(tmp_path / "down", source=source))


def test_a_model_that_is_none_is_refused(tmp_path):
    source = altered("class Run:\n", "class Run:\n    Config = dict\n")
    with pytest.raises(OwnCodeError, match="Config must be a pydantic model"):
        definition.load(write_own(tmp_path / "down", source=source))


def test_a_check_of_theirs_that_fails_is_theirs(tmp_path):
    source = WITH_SCHEMA.replace("if self.kind ==", "if self.kid ==")
    with pytest.raises(
        OwnCodeError, match=r"falling:Run\.Config: AttributeError: .* \(falling\.py:\d+\)"
    ) as raised:
        definition.load(write_own(tmp_path / "down", source=source))
    assert "own_run.py" not in raised.value.shown_above.splitlines()[1]


def test_a_kind_that_has_not_been_imported_checks_nothing(tmp_path):
    kind = OwnRunKind("falling:Run", BUDGET, "height")
    assert kind.read(parse("seed: 1\nanything: [1]", name="x.yaml")).tree == {"seed": 1, "anything": [1]}
    file = write_own(tmp_path / "down")
    cls, with_class = imported(kind, [file.parent], parse(BASE, name="config.yaml"))
    assert cls.__name__ == "Run"
    assert with_class.fingerprint
    with pytest.raises(ConfigError, match="rate: given true, must be a number"):
        with_class.read(parse("seed: 1\nrate: true", name="x.yaml"))
    assert with_class.read(parse("seed: 1\nrate: null", name="x.yaml")).tree["rate"] is None
