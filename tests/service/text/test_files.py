import json

import pytest

from service.text.files import write_both


def test_people_and_programs_read_of_one_result(tmp_path):
    folder = tmp_path / "made" / "here"
    paths = write_both(folder, "result", "# Ergebnis: größer\n", {"größer": [1.5]})
    assert paths == (folder / "result.md", folder / "result.json")
    assert paths[0].read_text(encoding="utf-8") == "# Ergebnis: größer\n"
    assert json.loads(paths[1].read_text(encoding="utf-8")) == {"größer": [1.5]}
    assert "größer" in paths[1].read_text(encoding="utf-8")


def test_a_number_that_json_does_not_have_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_both(tmp_path, "result", "", {"loss": float("nan")})


def test_a_folder_that_cannot_be_made_is_the_callers_to_tell(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_both(tmp_path / "file", "result", "", {})
