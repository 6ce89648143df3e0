"""A clock that a test moves by hand, to stand for the module `time`."""


class Clock:
    """Shows `now`, in seconds."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def monotonic(self) -> float:
        """As `time.monotonic`."""
        return self.now
