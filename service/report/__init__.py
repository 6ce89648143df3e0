"""A study as tables, checked claims, figures and pages. Imports no torch."""
