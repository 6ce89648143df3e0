"""Titles drawn from a model, for people to read."""

from model.data.tokenizer import Tokenizer
from model.network.gpt import GPT

TITLES = 12


def generate_titles(model: GPT, tokenizer: Tokenizer, number: int) -> tuple[str, ...]:
    """Titles drawn from the model at temperature 0.8, each from a seed of its own."""
    eos_id = tokenizer.eos_id
    drawn = model.generate([eos_id], end=eos_id, max_tokens=40, temperature=0.8, seeds=range(number))
    return tuple(tokenizer.decode(tokens) for tokens in drawn)
