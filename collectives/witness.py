"""Who is told what the collectives go through: phases, links lost and restored.

A witness may hold a phase up (a drill puts a fault in place meanwhile); it decides nothing.
"""

from typing import Protocol


class Witness(Protocol):
    """Told from the thread that carries out a collective; returns soon unless it means to hold."""

    def phase(self, name: str) -> None:
        """Take note that a collective enters a phase, such as `all-gather`."""

    def link_lost(self, peer: int, why: str) -> None:
        """Take note that the connection to `peer` is given up; the link stays."""

    def link_restored(self, peer: int, seconds: float) -> None:
        """Take note that the link to `peer` is carried again, `seconds` after it was lost."""

    def traffic(self, peer: int, sent: int, received: int) -> None:
        """Take note of the payload bytes over a link so far; called now and then."""


class Blind:
    """The witness of those who need none."""

    def phase(self, name: str) -> None:
        """Do nothing."""

    def link_lost(self, peer: int, why: str) -> None:
        """Do nothing."""

    def link_restored(self, peer: int, seconds: float) -> None:
        """Do nothing."""

    def traffic(self, peer: int, sent: int, received: int) -> None:
        """Do nothing."""
