"""Which trial of a study to advance by one rung, or which configuration to begin: decisions and no more.

Pure functions of what is known: nothing here reads a storage, trains, or keeps anything between two decisions, so that
every worker that knows the same decides the same, and a replayed search takes the way of a real one.
"""
