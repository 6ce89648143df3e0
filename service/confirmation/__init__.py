"""A search's best configurations on seeds it has not used, and what that shows."""
