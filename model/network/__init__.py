"""The GPT, and its loss."""
