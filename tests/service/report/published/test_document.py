import pytest

from model.errors import ConfigError
from service.report.published import document

FILE = """\
source: 000, Rosić and Claude, 21 July 2025
baseline: slow
defects:
  - {id: D5, text: Accuracy is of one training batch.}
tables:
  - id: table-2
    title: Performance
    source: 000, table 2
    columns:
      - {name: eval loss, metric: val_loss, unit: nats/token, note: 20 batches of a permuted split}
      - {name: accuracy, metric: accuracy}
      - {name: memory}
    rows:
      - arm: slow
        label: Low LR
        values: {eval loss: 5.180, accuracy: 0.254}
        notes: {accuracy: "D5: a training batch"}
      - {arm: wild, values: {eval loss: 2.851, memory: null}}
      - {arm: nobody, values: {eval loss: 1}}
curves:
  - {arm: slow, metric: val_loss, x: steps, points: [[0, 10.6], [400, 6.18]]}
claims:
  - {text: The highest rate is best., source: "000, section 3", test: {kind: best, arm: wild, metric: val_loss}}
  - {text: It is faster., source: "000, section 4", test: {kind: lower, arm: fast, than: slow, metric: val_loss}}
  - text: Memory is lower.
    source: 000, table 4
    test: {kind: unavailable, why: memory was not measured}
"""


@pytest.fixture
def load(tmp_path):
    def from_text(text: str) -> document.Published:
        path = tmp_path / "published.yaml"
        path.write_text(text)
        return document.load(path)

    return from_text


def test_a_file_is_read(load):
    found = load(FILE)
    assert found.tables[0].rows[0].values == {"eval loss": 5.18, "accuracy": 0.254}
    assert found.curves[0].points == ((0, 10.6), (400, 6.18))
    assert [claim.test.kind for claim in found.claims] == ["best", "lower", "unavailable"]
    assert found.arms() == ("slow", "wild", "nobody", "fast")


LOWER = "{kind: lower, arm: fast, than: slow, metric: val_loss}"
RATIO = "{kind: ratio, of: fast, to: slow, metric: val_loss"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "metric: accuracy}",
            "metric: acuracy}",
            r":11: tables.0.columns.1.metric: no metric 'acuracy', allowed: acc",
        ),
        ("kind: best", "kind: finest", r"claims.0.test: kind: given \"finest\", allowed: .*'best'"),
        (
            "wild, metric: val_loss}",
            "wild, metric: confidence}",
            r"one direction is better, given confidence",
        ),
        ("memory: null", "mem: null", r"row 'wild': no column 'mem', allowed: eval loss, accuracy, memory"),
        ("{name: memory}", "{name: accuracy}", r"names of their own, given eval loss, accuracy, accuracy"),
        ("id: table-2", "id: Table 2", r"tables.0.id: .*given \"Table 2\""),
        ("kind: unavailable, why: ", "kind: unavailable, reason: ", r"claims.2.test"),
        ("x: steps", "x: epochs", r"curves.0.x: given \"epochs\", allowed: 'steps', 'tokens', 'seconds'"),
        (LOWER, f"{RATIO}}}", r"needs one of about, at_least, at_most, given none"),
        (LOWER, f"{RATIO}, about: 1, at_most: 1}}", r"at_least, at_most, given about and at_most"),
        (LOWER, f"{RATIO}, at_most: 1, tolerance: 0.1}}", r"tolerance has an effect with about alone"),
        (
            LOWER,
            "{kind: between, arm: a, metric: ece, low: 10, high: 1}",
            r"low must be at most high, given 10.0 and 1.0",
        ),
        (
            "text: Accuracy is of one training batch.}",
            "text: a}\n  - {id: D5, text: b}",
            r"defects: id 'D5' is given twice",
        ),
    ],
)
def test_faults_are_one_line_with_their_place(load, old, new, message):
    assert FILE.count(old) == 1
    with pytest.raises(ConfigError, match=message) as raised:
        load(FILE.replace(old, new))
    assert "\n" not in str(raised.value)


def test_layers_are_metrics_of_a_family(load):
    new = FILE.replace("metric: accuracy}", "metric: grad_norm/blocks.0}")
    assert load(new).tables[0].columns[1].metric == "grad_norm/blocks.0"
    with pytest.raises(ConfigError, match="no metric 'confidence/first'"):
        load(FILE.replace("metric: accuracy}", "metric: confidence/first}"))


def test_the_published_files_of_this_project_can_be_read_and_name_arms_of_their_studies():
    from service.settings import ROOT
    from service.study import definition

    files = sorted((ROOT / "studies").glob("*/published.yaml"))
    for file in files:
        arms = definition.load(file.parent.name).arms
        assert set(document.load(file).arms()) <= set(arms), file
