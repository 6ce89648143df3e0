"""Titles drawn from a trained model, after a beginning or from none."""

from collections.abc import Sequence

from model.checkpoint import Checkpoint
from model.errors import UserError


def draw(
    checkpoint: Checkpoint,
    *,
    prompt: str = "",
    number: int = 5,
    temperature: float = 0.8,
    most_tokens: int = 40,
    seed: int = 0,
) -> tuple[str, ...]:
    """`number` titles that begin with `prompt`; the same seed gives the same ones on a CPU.

    Args:
        checkpoint: the model.
        prompt: the beginning of each.
        number: how many.
        temperature: above 0; below 1 the likely becomes likelier.
        most_tokens: after which a title is cut off.
        seed: of the first, the others having those that follow.

    Raises:
        UserError: the prompt is no text, or a number is out of its range.
        CheckpointError: the weights do not fit the configuration.
    """
    if not 0 < temperature < float("inf"):
        raise UserError(f"temperature: must be above 0 and finite, given {temperature}")
    for name, value in (("number", number), ("most_tokens", most_tokens)):
        if value < 1:
            raise UserError(f"{name}: must be at least 1, given {value}")
    tokenizer = checkpoint.tokenizer
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UserError(f"prompt: must be text in UTF-8, given {prompt!r}") from None
    begun: Sequence[int] = tokenizer.encode(prompt) if prompt else []
    drawn = checkpoint.model().generate(
        [tokenizer.eos_id, *begun],
        end=tokenizer.eos_id,
        max_tokens=most_tokens,
        temperature=temperature,
        seeds=range(seed, seed + number),
    )
    return tuple(tokenizer.decode([*begun, *tokens]) for tokens in drawn)
