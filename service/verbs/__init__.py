"""The verbs of `python -m service`: what a person or a script may ask for, as options and arguments."""
