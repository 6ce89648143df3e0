from service.text.words import GPT, Words

OWN = Words("error rate", "", "epochs")


def test_the_gpt_keeps_its_words():
    assert GPT.objective == "val_loss, nats per character"
    assert GPT.best_trials == "best trials, val_loss in nats per character"
    assert (GPT.in_unit, GPT.sentence, GPT.shown_loss) == (" nats per character", "validation loss", "loss")
    assert GPT.of_budget("equal tokens") == "equal tokens"


def test_own_code_has_its_own_and_no_unit_that_is_not_known():
    assert OWN.objective == OWN.sentence == OWN.shown_loss == "error rate"
    assert OWN.best_trials == "best trials, error rate"
    assert OWN.in_unit == ""
    assert OWN.of_budget("training tokens") == "training epochs"
