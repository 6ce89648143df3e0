import yaml

from tests.service.winner.asking import best_trial, invoke


def test_the_card_says_what_was_trained_and_measured(finished, tmp_path):
    done = invoke(finished, "export", "tiny", "--format", "hf", "--out", tmp_path / "model")
    assert done.exit_code == 0, done.output
    card = (tmp_path / "model" / "README.md").read_text()
    best = best_trial(finished)
    front, _, body = card.removeprefix("---\n").partition("---\n")
    assert yaml.safe_load(front)["library_name"] == "transformers"
    assert f"{best.value:.4f}, of this model, on the validation split" in body
    for said in (
        "8,960 tokens",
        "file corpus.txt",
        "not confirmed",
        "not measured",
        "seed | 1337",
        "GPT-2's layout",
    ):
        assert said in body, said
