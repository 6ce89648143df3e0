from pathlib import Path

import pytest

from model.errors import UserError
from service.settings import HOME
from service.study import definition
from service.study.base_file import code_folders, folders_of
from tests.own_code import HEAD, SPACE, write_own


def test_the_base_file_of_own_code_may_stand_beside_the_study_or_in_the_root(tmp_path):
    beside = write_own(tmp_path / "beside", base="seed: 1\nrate: 0.2\nkind: plain\n")
    assert definition.load(beside).base.values["rate"] == 0.2
    file = write_own(tmp_path / "studies" / "apart", head=HEAD.replace("config.yaml", "bases/steep.yaml"))
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "steep.yaml").write_text("seed: 1\nrate: 0.4\nkind: plain\n")
    assert definition.load(file, root=tmp_path).base.values["rate"] == 0.4


def test_a_scale_changes_the_base_file_of_own_code(tmp_path):
    file = write_own(tmp_path / "down", body=f"{SPACE}scales:\n  steep:\n    set: {{kind: steep}}\n")
    scaled = definition.load(file, scale="steep")
    assert (scaled.name, scaled.base.values["kind"]) == ("down-steep", "steep")
    with pytest.raises(UserError, match="scale 'flat' does not exist; there are: steep"):
        definition.load(file, scale="flat")


def test_code_is_looked_for_beside_the_study_then_here_then_at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folders_of(tmp_path / "down" / "study.yaml") == [tmp_path / "down", tmp_path, HOME]
    assert folders_of(None) == [tmp_path, HOME]


def test_a_study_of_the_gpt_has_its_base_file_in_the_root(tmp_path):
    file = tmp_path / "studies" / "one" / "study.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("question: x?\nspace:\n  optimizer.lr: {type: float, low: 0.001, high: 0.01}\n")
    (file.parent / "train_config.yaml").write_text("seed: 5\n")
    loaded = definition.load(file)
    assert loaded.base_config.seed == 1337
    assert loaded.own_run is None
    assert code_folders(loaded.file)[-1] == HOME
    assert Path(loaded.file or "").name == "study.yaml"
