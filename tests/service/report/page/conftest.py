"""Reports of real studies, and what a browser sees of their pages."""

import json
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from service.__main__ import cli
from service.report.page import content
from service.report.published import document
from tests.conftest import SPACE, tiny_study
from tests.service.catalogue.asking import fill, invoke
from tests.service.report.published.test_document import FILE

HOSTILE = "<script>alert(1)</script> $x$ | `\"'&"


DESIGN = f"""\
baseline: false
keep_checkpoints: 1
design:
  list:
    - {{arm: plain, optimizer.lr: 1.0e-3}}
    - {{arm: {json.dumps(HOSTILE)}, optimizer.lr: 3.0e-3}}
  seeds: [1, 2]
"""


VOID = {"meta", "br", "input", "rect", "circle", "path", "line"}


class Reader(HTMLParser):
    """What a browser sees: sections, text, addresses; fails where tags do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.scripts = 0

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.addresses += [values[key] for key in ("src", "href", "action", "data") if values.get(key)]
        if tag == "section":
            self.sections.append(values["id"])
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def report(tiny, *arguments):
    """The verb's exit status and what it said."""
    environment = {key: value for key, value in tiny.command()["env"].items() if key.startswith("HPTUNE_")}
    done = CliRunner().invoke(cli, ["report", *map(str, arguments)], env=environment)
    return done.exit_code, done.output


@pytest.fixture(scope="session")
def tuned(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    status, output = report(finished, "tiny", "--out", folder, "--result", folder / "kept" / "copy.json")
    assert status == 0, output
    return folder, output


@pytest.fixture(scope="session")
def designed(tmp_path_factory):
    tiny = tiny_study(tmp_path_factory.mktemp("designed"))
    tiny.write(DESIGN, **{"diagnostics.every": 10, "diagnostics.evaluation": "true"})
    tiny.create()
    tiny.worker().work()
    folder = tmp_path_factory.mktemp("report")
    status, output = report(tiny, "tiny", "--out", folder)
    assert status == 0, output
    return folder


@pytest.fixture(scope="session")
def built(record, tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "published.yaml"
    path.write_text(FILE)
    return content.build(record, document.load(path))


@pytest.fixture(scope="session")
def compared_arms(written, tmp_path_factory):
    """The page of two arms of a design with three seeds each."""
    page = tmp_path_factory.mktemp("compared") / "arms.html"
    done = invoke(written, "compare", "tiny:slow", "tiny:fast", "--html", page)
    assert done.exit_code == 0, done.output
    return page


@pytest.fixture(scope="session")
def apart(tmp_path_factory):
    """Two studies over different titles, with a complete and a pruned trial each."""
    tiny = tiny_study(tmp_path_factory.mktemp("apart"))
    tiny.create(1)
    tiny.write(SPACE, **{"data.num_documents": 500})
    tiny.create(1, name="fewer")
    for name in ("tiny", "fewer"):
        fill(tiny, ({"optimizer.lr": 0.001}, 2.0), ({"optimizer.lr": 0.002}, None), name=name)
    return tiny
