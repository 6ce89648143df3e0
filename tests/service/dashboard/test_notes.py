import dataclasses
import xml.etree.ElementTree as ElementTree

import optuna
import yaml
from markdown_it import MarkdownIt
from optuna_dashboard import get_note

from model.measurement.evaluation_record import Evaluation
from service.dashboard.notes import study_note, trial_note
from service.storage.database import open_storage
from service.storage.studies import corpus_facts, load_study

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
        "div", "table", "thead", "tbody", "tr", "th", "td", "p", "img", "ul", "li", "hr", "pre", "code",
    }  # fmt: skip
    assert texts(note, "li") == [as_shown(title) for title in HOSTILE]
    cells = texts(note, "td")
    assert cells[:4] == ["ended", HOSTILE[0], "val_loss", "1.5000 nats/char"]
    assert dict(zip(cells[::2], cells[1::2], strict=True))["device"] == HOSTILE[1]
    (block,) = texts(note, "code")
    assert yaml.safe_load(block) == config
    assert [e.tag for e in elements(note)][-5:] == ["li", "hr", "p", "pre", "code"], (
        "the long end, below a rule"
    )


def test_the_note_of_a_trial_without_an_evaluation_says_why_it_ended():
    note = trial_note(ended="out of memory: 3 GiB", config={"seed": 1}, last=None, facts={})
    assert texts(note, "td") == ["ended", "out of memory: 3 GiB"]
    assert texts(note, "code") == ["seed: 1"]
    waits = trial_note(ended="paused at rung 1 of 3", config={"seed": 1}, last=None, facts={})
    assert texts(waits, "td")[1] == (
        "paused at rung 1 of 3; it may go on from there. Shown as pruned, it was not promoted"
    )
    died_at_once = trial_note(ended="its worker died", config={}, last=None, facts={})
    assert texts(died_at_once, "td") == ["ended", "its worker died"]
    assert texts(died_at_once, "code") == []


def test_the_note_of_a_study_says_what_is_asked_of_what_and_how_to_run_it(finished):
    study, definition = loaded(finished)
    note = get_note(study)
    facts = corpus_facts(study)
    cells = texts(note, "td")
    rows = dict(zip(cells[::2], cells[1::2], strict=True))
    assert texts(note, "strong") == ["Does it work?", "State:", "Next:"]
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
        assert texts(shown, "strong")[0] == as_shown(question)
        assert not {"script", "img", "a"} & {element.tag for element in elements(shown)}


def test_the_note_of_a_study_made_in_a_container_names_commands_for_containers(tiny, monkeypatch):
    monkeypatch.setenv("HPTUNE_CONTAINER", "1")
    tiny.create(1)
    (commands,) = texts(get_note(loaded(tiny)[0]), "code")
    assert commands.startswith("./hptune.sh 1 --study ")
    first, second = commands.splitlines()
    assert first.endswith(" --docker")
    assert second.startswith("docker compose run --rm evaluator --study tiny ")
