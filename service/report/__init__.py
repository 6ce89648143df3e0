"""A study's report, made from its storage alone."""
