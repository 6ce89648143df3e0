import dataclasses
import html
import json
import subprocess
import xml.etree.ElementTree as ElementTree

import optuna
import structlog
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import TrialState
from optuna_dashboard import get_note

from model.measurement.evaluation_record import Evaluation
from model.training import TrainingRun
from service import logs
from service.dashboard.curve import curve_svg
from service.dashboard.notes import study_note, trial_note
from service.storage.artifact_stores import open_store
from service.storage.database import open_storage
from service.storage.studies import corpus_facts, load_study
from service.text.markdown import escaped, fenced

MARKDOWN = MarkdownIt("commonmark").enable("table")
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![pixel](http://elsewhere.example/pixel.png)",
    "[click](javascript:alert(1))",
    "a | b | c",
    "# heading",
    "1. one",
    "1) one",
    "`code` **bold** ~~gone~~ &amp; \\",
    "```\nfence\n```",
    "two\nlines\r\n\r\n    and code",
    "nul \x00, escape \x1b[31m, override \u202e",
)
EVALUATION = Evaluation(
    rung_tokens=9000,
    step=70,
    tokens=8960,
    val_loss=1.5,
    nats_per_token=4.5,
    perplexity=90.0171,
    perplexity_per_char=4.4817,
    bits_per_byte=2.5,
    train_loss=4.6,
    learning_rate=0.0,
    gradient_norm=1.0,
    train_seconds=0.7,
    evaluation_seconds=0.2,
    tokens_per_second=12345.6,
    peak_memory_bytes=None,
    val_loss_official=1.4,
    coverage=0.958,
)


def elements(markdown):
    """The elements of the HTML that a CommonMark renderer which lets HTML through makes of it."""
    return list(ElementTree.fromstring(f"<div>{MARKDOWN.render(markdown)}</div>").iter())


def texts(markdown, tag):
    return ["".join(element.itertext()).strip() for element in elements(markdown) if element.tag == tag]


def as_shown(text):
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def loaded(study):
    return load_study(open_storage(study.settings), "tiny", study.settings)


def note_of(study, number):
    found, _ = loaded(study)
    return get_note(optuna.Trial(found, found.trials[number]._trial_id))


def files_of(study, number):
    """The trial's artifacts by name."""
    found, _ = loaded(study)
    store = open_store(study.settings.artifacts)
    files = {}
    for meta in get_all_artifact_meta(found.trials[number], storage=found._storage):
        if store.has(meta.artifact_id):
            with store.open_reader(meta.artifact_id) as file:
                files[meta.filename] = file.read()
    return files


@given(st.text() | st.sampled_from(HOSTILE))
def test_escaped_text_reads_as_it_was_written(text):
    as_html = html.escape(f"x {as_shown(text)} x").replace("&#x27;", "'")
    assert MARKDOWN.render(f"x {escaped(text)} x") == f"<p>{as_html}</p>\n"


@given(st.text(alphabet="`~ab\n ") | st.sampled_from(HOSTILE))
def test_nothing_in_a_code_block_ends_it(text):
    tokens = MARKDOWN.parse(fenced(text, "yaml") + "\nafter\n")
    assert (tokens[0].type, tokens[0].info) == ("fence", "yaml")
    assert [token.content for token in tokens if token.type == "inline"] == ["after"]


def test_the_note_of_a_trial_shows_hostile_text_and_nothing_of_its_markup():
    config = {"data": {"path": "```\n<script>alert(1)</script>"}, "tags": list(HOSTILE)}
    note = trial_note(
        ended=HOSTILE[0],
        config=config,
        last=EVALUATION,
        facts={"device": HOSTILE[1]},
        titles=HOSTILE,
        curve="/artifacts/1/2/3",
    )
    (image,) = (element for element in elements(note) if element.tag == "img")
    assert image.get("src") == "/artifacts/1/2/3"
    assert {element.tag for element in elements(note)} <= {
        "div", "table", "thead", "tbody", "tr", "th", "td", "p", "img", "ul", "li", "pre", "code",
    }  # fmt: skip
    assert texts(note, "li") == [as_shown(title) for title in HOSTILE]
    cells = texts(note, "td")
    assert cells[:4] == ["ended", HOSTILE[0], "val_loss", "1.5000 nats/char"]
    assert dict(zip(cells[::2], cells[1::2], strict=True))["device"] == HOSTILE[1]
    (block,) = texts(note, "code")
    assert yaml.safe_load(block) == config


def test_the_note_of_a_trial_without_an_evaluation_says_why_it_ended():
    note = trial_note(ended="out of memory: 3 GiB", config={"seed": 1}, last=None, facts={})
    assert texts(note, "td") == ["ended", "out of memory: 3 GiB"]
    assert texts(note, "code") == ["seed: 1"]


def test_the_note_of_a_study_says_what_is_asked_of_what_and_how_to_run_it(finished):
    study, definition = loaded(finished)
    note = get_note(study)
    facts = corpus_facts(study)
    cells = texts(note, "td")
    rows = dict(zip(cells[::2], cells[1::2], strict=True))
    assert texts(note, "strong") == ["Does it work?"]
    assert rows["fingerprint"] == facts["fingerprint"]
    assert rows["corpus"] == "file corpus.txt"
    assert rows["documents"] == "900 train, 100 validation, 200 held-out; 0 duplicates dropped"
    assert rows["budget of a trial"].startswith("9,000 training tokens, 0.826 times the train split; 3 rungs")
    assert (rows["varied"], rows["sampler"], rows["pruner"]) == ("optimizer.lr", "random", "none")
    (commands,) = texts(note, "code")
    assert commands.splitlines()[0] == f"./hptune.sh 3 --study {finished.file}"
    assert study.metric_names == ["val_loss [nats/char]"]

    for question in HOSTILE:
        hostile = dataclasses.replace(definition, question=question)
        shown = study_note(hostile, facts | {"source": question}, command="true")
        assert texts(shown, "strong") == [as_shown(question)]
        assert not {"script", "img", "a"} & {element.tag for element in elements(shown)}


def test_the_note_of_a_study_made_in_a_container_names_commands_for_containers(tiny, monkeypatch):
    monkeypatch.setenv("HPTUNE_CONTAINER", "1")
    tiny.create(1)
    (commands,) = texts(get_note(loaded(tiny)[0]), "code")
    assert commands.startswith("./hptune.sh 1 --study ")
    first, second = commands.splitlines()
    assert first.endswith(" --docker")
    assert second.startswith("docker compose run --rm evaluator --study tiny ")


def test_every_complete_trial_has_a_note_and_a_curve(finished):
    for trial in finished.trials():
        note = note_of(finished, trial.number)
        cells = texts(note, "td")
        rows = dict(zip(cells[::2], cells[1::2], strict=True))
        assert rows["ended"] == "complete"
        assert rows["val_loss"] == f"{trial.value:.4f} nats/char"
        assert rows["val_loss_official"].endswith("% of the tokens")
        assert rows["device"].startswith("CPU, 1 thread, ")
        resident = int(rows["memory"].removeprefix("at most ").split()[0].replace(",", ""))
        assert 100 < resident < 20_000  # MiB: torch alone takes more than the one
        assert yaml.safe_load(texts(note, "code")[-1]) == trial.user_attrs["config"]
        image = ElementTree.fromstring(files_of(finished, trial.number)["curve.svg"])
        assert len(list(image.iter("{http://www.w3.org/2000/svg}circle"))) == 3


def test_twelve_titles_stand_in_the_note_of_a_trial_that_keeps_its_weights(finished):
    for number in (0, 1):  # two checkpoints are kept: those of the first two trials were kept at first
        assert len(texts(note_of(finished, number), "li")) == 12


def test_a_trial_that_ended_otherwise_says_why(tiny):
    tiny.write(
        """\
design:
  list:
    - {optimizer.name: sgd, optimizer.lr: 1.0e+6, optimizer.clip_norm: null}
baseline: false
"""
    )
    tiny.create(1)
    tiny.worker().work()
    (trial,) = tiny.trials()
    assert trial.state == TrialState.PRUNED
    assert texts(note_of(tiny, 0), "td")[:2] == ["ended", as_shown(trial.user_attrs["ended"])]
    assert trial.user_attrs["ended"].startswith("diverged: ")


def test_a_pruned_trial_has_the_curve_it_came_to(tiny):
    tiny.write(
        """\
space:
  optimizer.lr: {type: float, low: 1.0e-2, high: 1.0e-1}
pruner: {name: threshold, upper: 0.5}
baseline: false
"""
    )
    tiny.create(1)
    tiny.worker().work()
    assert texts(note_of(tiny, 0), "td")[1] == "pruned at rung 1 of 3"
    assert b"<circle" in files_of(tiny, 0)["curve.svg"]


def test_out_of_memory_before_the_first_rung_has_a_note(tiny, monkeypatch):
    import torch

    tiny.create(1)
    monkeypatch.setattr(TrainingRun, "_train_step", lambda run: torch.empty(10**15))
    tiny.worker().work()
    cells = texts(note_of(tiny, 0), "td")
    assert cells[0] == "ended"
    assert cells[1].startswith("out of memory: ")
    assert "curve.svg" not in files_of(tiny, 0)


def test_a_store_that_takes_nothing_costs_the_files_and_not_the_note(tiny, finished):
    tiny.create(1)
    worker = tiny.worker()
    folder = tiny.folder / "artifacts"
    folder.rename(tiny.folder / "moved")
    folder.write_text("")  # a file in the folder's place
    worker.work()
    (trial,) = tiny.trials()
    assert trial.state == TrialState.COMPLETE
    assert trial.value == finished.trials()[0].value
    assert texts(note_of(tiny, 0), "td")[:2] == ["ended", "complete"]


def test_a_trial_carries_the_log_of_its_attempt(tiny):
    tiny.create(2)
    done = subprocess.run(
        **tiny.command("work", "tiny", "--threads", "1", "--json"), capture_output=True, check=True
    )
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    for number in range(2):
        kept = [json.loads(line) for line in files_of(tiny, number)["log.jsonl"].decode().splitlines()]
        assert [line["event"] for line in kept][:4] == ["trial started", "rung", "rung", "rung"]
        assert {(line["study"], line["trial"]) for line in kept} == {("tiny", number)}
        assert all(line in printed for line in kept)


def test_the_log_of_a_trial_is_bounded_and_keeps_the_newest(capsys):
    log = logs.configure(json_lines=True, study="s")
    try:
        for i in range(5000):
            log.info("event", trial=7, i=i, text="x" * 100)
        lines = logs.of_trial(7)
        log.debug("progress", trial=7)
        assert len(lines) <= logs.KEPT_CHARACTERS < len(lines) + 300
        assert json.loads(lines.splitlines()[-1])["i"] == 4999
        assert logs.of_trial(7) == lines
        log.info("event", text="of no trial")
        log.info("started", trial=8)
        assert [json.loads(line)["event"] for line in logs.of_trial(8).splitlines()] == ["started"]
        assert logs.of_trial(7) == ""
    finally:
        structlog.reset_defaults()
        capsys.readouterr()


@given(
    st.lists(
        st.tuples(st.integers(0, 10**9), st.floats(1e-6, 1e6)),
        min_size=1,
        max_size=20,
        unique_by=lambda p: p[0],
    )
)
def test_a_curve_is_an_image_with_every_rung_inside(points):
    points = sorted(points)
    image = ElementTree.fromstring(curve_svg(points, budget_tokens=max(points[-1][0], 1)))
    circles = list(image.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(circles) == len(points)
    for circle in circles:
        assert 0 <= float(circle.get("cx")) <= 640
        assert 0 <= float(circle.get("cy")) <= 300
    heights = [float(circle.get("cy")) for circle in circles]
    losses = [loss for _, loss in points]
    assert heights[losses.index(max(losses))] == min(heights)  # more loss is higher up
