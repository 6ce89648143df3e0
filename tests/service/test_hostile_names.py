import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from model.errors import UserError
from service.__main__ import cli
from service.settings import ROOT
from service.study.file import checked_name

HOSTILE = [
    "../../x",
    "..",
    ".",
    "",
    ".x",
    "-x",
    "/etc/x",
    "a/b",
    "a\\b",
    "a b",
    "a\nb",
    "a\0b",
    "ü",
    "<b>",
    "x" * 101,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_is_no_plain_word_is_refused_in_one_line(name):
    with pytest.raises(UserError, match="a name has letters, digits") as caught:
        checked_name(name)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["hn", "hn-2", "2026_hn.v3", "x" * 100])
def test_a_plain_name_is_a_name(name):
    assert checked_name(name) == name


def invoke(study, *arguments):
    return CliRunner(env=study.command()["env"]).invoke(cli, arguments)


def test_nothing_is_made_for_a_study_under_a_hostile_name(tiny):
    result = invoke(tiny, "create", str(tiny.file), "--name", "../../x")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: study '../../x': a name has letters, digits")
    assert not (tiny.folder / "study.db").exists()


def test_no_report_is_written_for_a_hostile_name_in_the_storage(tiny):
    tiny.create(1)
    tiny.worker().work()
    engine = sa.create_engine(tiny.settings.storage_url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE studies SET study_name = '../../hostile-name'"))
    engine.dispose()
    result = invoke(tiny, "evaluate", "--study", "../../hostile-name", "--top", "1")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: study '../../hostile-name': a name has letters, digits")
    assert not (ROOT / "hostile-name").exists()
