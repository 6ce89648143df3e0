"""The dashboard behind its guard, and what a study and a trial show in it."""
