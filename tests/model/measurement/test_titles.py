import pytest
import torch

from model.data.tokenizer import Tokenizer
from model.measurement.titles import generate_titles
from model.network.gpt import GPT
from tests.tiny_gpt import VOCAB, tiny_config

TOKENIZER = Tokenizer.train(["Show HN: tune your model"], vocab_size=VOCAB)


@pytest.fixture(scope="module")
def model():
    return GPT(tiny_config(), seed=0, eos_id=TOKENIZER.eos_id).eval()


def test_each_title_has_a_seed_of_its_own_and_no_other_randomness(model):
    state = torch.get_rng_state()
    titles = generate_titles(model, TOKENIZER, 6)
    assert len(set(titles)) == 6
    assert generate_titles(model, TOKENIZER, 3) == titles[:3]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_title_ends_where_the_model_says_so(model):
    assert generate_titles(model, TOKENIZER, 0) == ()
    drawn = model.generate(
        [TOKENIZER.eos_id], end=TOKENIZER.eos_id, max_tokens=40, temperature=0.8, seeds=range(4)
    )
    assert [len(tokens) <= 40 for tokens in drawn] == [True] * 4
    assert generate_titles(model, TOKENIZER, 4) == tuple(map(TOKENIZER.decode, drawn))
