from pathlib import Path

import optuna
import pytest

from model import corpus as corpora
from model.errors import CorpusError
from service.storage import DEFINITION, StudyError, corpus_facts, load_study, open_storage
from service.stores import StoreError

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


def test_another_space_is_refused_and_the_way_out_works(tiny):
    tiny.create(1)
    tiny.write(OTHER_SPACE)
    with pytest.raises(StudyError, match=r"made with another search space;.*--name tiny-2$"):
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


def test_windows_larger_than_the_validation_split_are_refused_before_anything_is_made(tiny):
    tiny.write(**{"training.batch_size": 4096})
    with pytest.raises(CorpusError, match=r"needs 65,537; take a larger corpus or smaller values$"):
        tiny.create(1)
    assert optuna.get_all_study_names(tiny.settings.storage_url) == []


def test_the_largest_window_of_the_space_counts(tiny):
    space = "space:\n  training.batch_size: {type: categorical, choices: [64, 4096]}\n"
    tiny.write(space, **{"training.batch_size": None})
    with pytest.raises(CorpusError, match=r"training\.batch_size 4096"):
        tiny.create(1)


def test_auto_is_decided_once(tiny, monkeypatch):
    documents = (tiny.folder / "corpus.txt").read_text().splitlines()

    def hub(config):
        return documents, "titles of a hub"

    def unreachable(config):
        raise corpora.HubUnreachableError("no route to host")

    tiny.write(source="auto")
    monkeypatch.setattr(corpora, "read_hub", hub)  # the network's part in it
    tiny.create(1)
    before = facts(tiny)
    assert before["source"] == "titles of a hub"
    monkeypatch.setattr(corpora, "read_hub", unreachable)
    tiny.create(2)
    assert facts(tiny) == before


def test_a_study_whose_making_was_cut_off_is_made_again(tiny):
    storage = open_storage(tiny.settings, create=True)
    optuna.create_study(storage=storage, study_name="tiny", direction="minimize")
    tiny.create(2)
    study, _ = load_study(open_storage(tiny.settings), "tiny", tiny.settings)
    assert DEFINITION in study.user_attrs
    assert tiny.slots()["open"] == 2


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
