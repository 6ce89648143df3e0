"""A small GPT and how it is trained. Knows nothing of tuners, databases or containers."""
