"""When a broken rail is dialled again: at once, then after pauses that grow, for ever. Pure."""

from holdfast.collectives.links.link import LinkConfig


class Redial:
    """The pauses of one rail. A connection that brought something forgives those before it."""

    def __init__(self, config: LinkConfig) -> None:
        self._config = config
        self._pause = 0.0
        self.due = 0.0
        """When to dial next, on the clock that `postpone` is given."""
        self.failures = 0
        """How many connections have ended or not come about without being of use, ever."""

    def postpone(self, now: float, *, useful: bool = False) -> None:
        """Take note that a connection ended, or did not come about; was it `useful`?"""
        if not useful:
            self.failures += 1
        pause = 0.0 if useful else self._pause
        self.due = now + pause
        self._pause = min(max(2 * pause, self._config.first_retry), self._config.last_retry)
