import json
import shutil
from pathlib import Path

import optuna
import pytest

from model.data import docstrings
from model.data.tokenizer import Tokenizer
from model.errors import ConfigError
from service.machine import status
from service.machine.create import create
from service.storage.artifact_stores import StoreError, open_store
from service.storage.artifacts import read_checkpoint
from service.storage.database import open_storage
from service.storage.opened_study import open_study
from service.storage.ownership import key_of
from service.storage.slots import Slots
from service.storage.studies import StudyError, corpus_facts, load_study, made_as

OTHER_SPACE = """\
space:
  optimizer.lr: {type: float, low: 1.0e-4, high: 2.0e-2, log: true}
sampler: {name: random}
"""


def facts(tiny):
    return corpus_facts(load_study(open_storage(tiny.settings), "tiny", tiny.settings)[0])


def test_a_study_is_made_with_all_that_a_worker_needs(tiny):
    tiny.create(4)
    found = facts(tiny)
    assert found["documents"] == [900, 100, 200]
    assert found["budget_tokens"] == 9000
    assert (Path(tiny.settings.artifacts) / found["artifact"]).exists()
    assert tiny.slots()["open"] == 4


def test_a_sampler_that_learns_nothing_from_pruning_is_said_once(tiny, capsys):
    warned = "sampler gp does not learn from what pruner median stops"
    tiny.write(OTHER_SPACE.replace("random", "gp") + "pruner: {name: median}\n")
    tiny.create(1)
    assert warned in capsys.readouterr().out
    tiny.create(1)
    assert warned not in capsys.readouterr().out
    tiny.write(OTHER_SPACE.replace("random", "gp"))
    tiny.create(1, name="tiny-2")
    assert "sampler gp" not in capsys.readouterr().out


SPENT = f"""{OTHER_SPACE.replace("random", "thaw")}spend: """


def test_what_cannot_pay_the_first_rung_of_the_baseline_is_refused_before_there_is_a_study(tiny):
    tiny.write(SPENT + "{tokens: 2999}\n")
    with pytest.raises(
        ConfigError, match=r"spend: given 2,999 tokens, must be 3,000 tokens at least: what the base"
    ):
        tiny.create(None)
    tiny.write(SPENT + "{flops: 1000}\n")
    with pytest.raises(
        ConfigError, match=r"spend: given 1.000e3 FLOPs, must be \d\.\d{3}e\d+ FLOPs at least: "
    ):
        tiny.create(None)
    tiny.write(SPENT + "{tokens: 3000}\n")
    tiny.create(None)
    assert tiny.slots()["open"] == 0  # made, and paid rung by rung


def test_the_same_definition_goes_on(tiny):
    tiny.create(2)
    before = facts(tiny)
    tiny.create(3)
    assert facts(tiny) == before
    assert tiny.slots()["open"] == 3
    tiny.create(None, total=5)
    assert tiny.slots()["open"] == 5


def test_comments_and_the_number_of_trials_may_change(tiny):
    tiny.create(1)
    tiny.file.write_text("# a comment\n" + tiny.file.read_text() + "trials: 9\nkeep_checkpoints: 1\n")
    tiny.create(1)


def test_a_study_that_is_there_may_be_left_the_trials_it_has(tiny):
    tiny.create(None, as_it_is=True)
    assert tiny.slots()["open"] == 50  # made: those of its file
    tiny.create(3)
    for _ in range(2):
        tiny.create(None, as_it_is=True)
        assert tiny.slots()["open"] == 3
    tiny.create(None, total=4, as_it_is=True)  # asked for all the same
    assert tiny.slots()["open"] == 4


def test_another_space_is_refused_and_the_way_out_works(tiny):
    tiny.create(1)
    tiny.write(OTHER_SPACE)
    with pytest.raises(
        StudyError,
        match=r"made with another search space;.*--name tiny-2; .* takes along .* that fit$",
    ):
        tiny.create(1)
    tiny.create(1, name="tiny-2")
    assert set(optuna.get_all_study_names(tiny.settings.storage_url)) == {"tiny", "tiny-2"}


def test_another_base_configuration_is_refused(tiny):
    tiny.create(1)
    with pytest.raises(StudyError, match="made with another base config;"):
        tiny.create(1, overrides={"model.d_model": 32})


def test_overrides_of_the_first_call_hold_in_later_ones(tiny):
    tiny.create(1, overrides={"model.d_model": 32})
    tiny.create(2)
    assert tiny.slots()["open"] == 2
    definition = load_study(open_storage(tiny.settings), "tiny", tiny.settings)[1]
    assert definition.base_config.model.d_model == 32


def test_a_corpus_file_with_other_content_is_refused(tiny):
    tiny.create(1)
    tiny.write_corpus(seed=1)
    with pytest.raises(StudyError, match=r"made with another corpus: .*corpus\.txt has changed since"):
        tiny.create(1)
    (tiny.folder / "corpus.txt").unlink()  # the study brings its corpus along
    tiny.create(1)


def write_tokenizer(tiny, text):
    path = tiny.folder / "tokenizer.json"
    path.write_text(Tokenizer.train([text], vocab_size=290).to_json())
    return str(path)


def test_a_study_brings_a_tokenizer_that_was_trained_elsewhere_along(tiny):
    path = write_tokenizer(tiny, "the cat, the catalogue")
    trained_elsewhere = Path(path).read_text()
    tiny.write(**{"tokenizer.pretrained": path})
    tiny.create(1)
    write_tokenizer(tiny, "another text, another tokenizer")
    tiny.create(2)  # the corpus file is unchanged, and the tokenizer is the study's own
    shutil.rmtree(tiny.settings.cache)
    tiny.worker().work()
    study, _ = load_study(open_storage(tiny.settings), "tiny", tiny.settings)
    checkpoint = read_checkpoint(open_store(tiny.settings.artifacts), study.best_trial)
    assert checkpoint.tokenizer.to_json() == Tokenizer.from_json(trained_elsewhere).to_json()


def test_a_tokenizer_with_more_entries_than_rows_is_refused_before_anything_is_made(tiny):
    path = write_tokenizer(tiny, "the cat, the catalogue")
    tiny.write(**{"tokenizer.pretrained": path, "tokenizer.vocab_size": 257})
    with pytest.raises(ConfigError, match=r"^tokenizer\.vocab_size: must be at least 26\d, .* given 257$"):
        tiny.create(1)
    assert optuna.get_all_study_names(tiny.settings.storage_url) == []


SCALED = """\
design:
  list: [{arm: A, model.d_model: 32}, {arm: B}]
baseline: false
scales:
  half: {set: {model.n_layer: 2}, map: {model.d_model: {16: 8, 32: 16}}}
"""


def test_a_scale_makes_a_study_of_its_own_and_holds_in_later_calls(tiny):
    tiny.write(SCALED)
    tiny.create(1, scale="half")
    tiny.create(1)
    storage = open_storage(tiny.settings)
    reduced, definition = load_study(storage, "tiny-half", tiny.settings)
    assert reduced.user_attrs["scale"] == definition.scale == "half"
    assert "--scale half" in json.dumps(storage.get_study_system_attrs(reduced._study_id))
    assert "scale" not in load_study(storage, "tiny", tiny.settings)[0].user_attrs
    storage.engine.dispose()
    tiny.create(2, name="other", scale="half")
    tiny.create(2, name="other")
    with pytest.raises(StudyError, match="made with another base config and search space and design"):
        tiny.create(1, name="tiny", scale="half")


@pytest.fixture
def small_docstrings(monkeypatch, tmp_path):
    """Docstrings of one package, of which a tiny study has enough."""
    lock_file = tmp_path / "small.lock"
    lock_file.write_text(f"optuna=={optuna.__version__}\n")
    monkeypatch.setattr(docstrings, "LOCK_FILE", lock_file)


@pytest.fixture
def auto(tiny, hub, small_docstrings):
    """The tiny study, asked of the hub, which has its titles."""
    folder = hub.root / "datasets/some/titles"
    folder.mkdir(parents=True)
    titles = (tiny.folder / "corpus.txt").read_text().splitlines()
    (folder / "train.csv").write_text("\n".join(["title", *titles]))
    tiny.write(source="auto", **{"data.hub.id": "some/titles"})
    return tiny


def names(study):
    return set(optuna.get_all_study_names(study.settings.storage_url))


def test_auto_is_decided_once(auto, hub, no_connection):
    auto.create(1)
    before = facts(auto)
    assert before["source"] == f"hub some/titles at {hub.commit('datasets', 'some/titles')}"
    no_connection()
    auto.create(2)
    assert facts(auto) == before
    assert names(auto) == {"tiny"}


def test_without_a_connection_another_name_is_taken_and_every_line_says_so(auto, hub, no_connection, capsys):
    no_connection()
    made, definition = create(auto.settings, str(auto.file), overrides={}, more=2, say=print)
    assert made == definition.name == "tiny-docstrings"
    said = capsys.readouterr().out
    assert "using the docstrings of the installed packages instead" in said
    assert "this makes study tiny-docstrings: tiny stays free for the corpus of the hub" in said
    storage = open_storage(auto.settings)
    study, _ = load_study(storage, "tiny-docstrings", auto.settings)
    assert study.user_attrs["command"].endswith("--name tiny-docstrings")
    with pytest.raises(
        StudyError, match="without a connection to the hub tiny-docstrings was made in its place"
    ):
        load_study(storage, "tiny", auto.settings)
    assert made_as(storage, "tiny") == "tiny-docstrings"
    storage.engine.dispose()


def test_without_a_connection_the_same_command_goes_on_with_it(auto, no_connection, capsys):
    no_connection()
    auto.create(2)
    auto.create(3)
    auto.create(1, name="tiny-docstrings")  # as the study's command says
    assert "using the docstrings" in capsys.readouterr().out
    assert names(auto) == {"tiny-docstrings"}
    storage = open_storage(auto.settings)
    study, _ = load_study(storage, "tiny-docstrings", auto.settings)
    assert Slots(storage.engine, key_of(study)).counts()["open"] == 1
    storage.engine.dispose()


def test_the_name_that_was_meant_is_free_for_another_corpus_and_for_the_hub_later(
    auto, hub, no_connection, monkeypatch
):
    no_connection()
    auto.create(1)
    path = str(auto.folder / "corpus.txt")
    auto.create(1, name="of-a-file", overrides={"data.source": "file", "data.path": path})
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    auto.create(1)
    assert names(auto) == {"tiny", "tiny-docstrings", "of-a-file"}
    assert facts(auto)["source"].startswith("hub some/titles at ")
    storage = open_storage(auto.settings)
    assert made_as(storage, "tiny") == "tiny"
    storage.engine.dispose()


def test_verbs_that_name_a_study_before_it_is_made_find_it(auto, no_connection):
    no_connection()
    auto.create(1)
    snapshot = status.take(auto.settings, "tiny")()
    assert snapshot.study.study_name == "tiny-docstrings"


def test_a_design_is_not_run_beyond_its_configurations(tiny):
    tiny.write("design:\n  list:\n    - {optimizer.lr: 2.0e-3}\n    - {optimizer.lr: 3.0e-3}\n")
    tiny.create(50)
    assert tiny.slots()["open"] == 3  # the baseline is one


@pytest.mark.parametrize(("total", "slots"), [(2, 2), (3, 3), (50, 3), (None, 3)])
def test_a_total_counts_for_a_design_as_well(tiny, total, slots):
    tiny.write("design:\n  list:\n    - {optimizer.lr: 2.0e-3}\n    - {optimizer.lr: 3.0e-3}\n")
    tiny.create(None, total=total)
    assert tiny.slots()["open"] == slots


def test_an_artifact_folder_that_cannot_be_written_is_named(tiny):
    Path(tiny.settings.artifacts).touch()
    with pytest.raises(StoreError, match="artifacts: artifacts cannot be stored there: File exists"):
        tiny.create(1)


def test_a_study_whose_file_names_no_strategy_is_told_the_default_and_keeps_what_it_was_made_with(
    tiny, capsys
):
    named = "sampler: {name: tpe}\npruner: {name: median, warmup_fraction: 0.25}\n"
    searched = OTHER_SPACE[: OTHER_SPACE.index("sampler")]
    tiny.write(searched + named)
    tiny.create(1)
    assert "searched by" not in capsys.readouterr().out
    tiny.write(searched)  # a newer file leaves it open
    tiny.create(1)
    assert "searched by" not in capsys.readouterr().out
    tiny.create(1, name="new")
    said = capsys.readouterr().out
    assert "searched by thaw, as the file names neither sampler nor pruner" in said
    assert (
        "it begins with what the runs recorded in studies/samplers-hard, studies/samplers say of these settings"
        in said
    )
    tiny.create(1, name="new")
    stored = {}
    for name in ("tiny", "new"):
        opened = open_study(tiny.settings, name)
        stored[name] = (
            opened.definition.sampler.name,
            opened.definition.pruner.name,
            opened.budget is not None,
            getattr(opened.definition.sampler, "prior", None),
        )
        opened.close()
    assert stored == {
        "tiny": ("tpe", "median", False, None),
        "new": ("thaw", "none", True, ("studies/samplers-hard", "studies/samplers")),
    }
    tiny.write(searched + "sampler: {name: random}\n")
    with pytest.raises(StudyError, match="made with another strategy"):
        tiny.create(1, name="new")
