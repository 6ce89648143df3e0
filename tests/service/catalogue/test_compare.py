from tests.conftest import SPACE
from tests.service.catalogue.asking import fill, invoke, plain_study


def test_what_differs_is_shown_and_what_is_better(anywhere):
    anywhere.create(1)
    anywhere.write(SPACE.replace("1.0e-2", "2.0e-2"), **{"model.dropout": 0.1})
    anywhere.create(1, name="other")
    fill(anywhere, ({"optimizer.lr": 0.001}, 2.0))
    fill(anywhere, ({"optimizer.lr": 0.015}, 1.75), name="other")
    done = invoke(anywhere, "compare", "tiny", "other")
    assert done.exit_code == 0, done.output
    text = " ".join(done.stdout.split())
    assert "base model.dropout" in text
    assert "from 0.0001 to 0.02, log" in text
    assert "best optimizer.lr" in text
    assert "model.d_model" not in text
    assert (
        "other is 0.2500 nats per character better than tiny: the best of each, one run on one seed;" in text
    )


def test_losses_on_other_titles_are_not_compared(tiny):
    tiny.create(1)
    tiny.write(SPACE, **{"data.num_documents": 500})
    tiny.create(1, name="fewer")
    assert (
        "their losses cannot be compared: their corpora are not the same\n"
        in invoke(tiny, "compare", "tiny", "fewer").stdout
    )
    again = invoke(tiny, "compare", "tiny", "tiny").stdout
    assert "their losses can be compared, once both have a complete trial\n" in again


def test_what_is_not_there_is_told(tiny):
    tiny.create(1)
    plain_study(tiny, "foreign", (0.1, 1.0))
    assert invoke(tiny, "compare", "tiny", "nosuch").stderr.startswith("error: study 'nosuch' is not in ")
    assert invoke(tiny, "compare", "foreign", "tiny").stderr.startswith(
        "error: study 'foreign' was made by Optuna"
    )
