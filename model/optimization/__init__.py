"""From a gradient to the next weights."""
