"""Where it is computed, in which number format, and how fast."""
