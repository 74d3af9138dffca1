"""Some of a job's ranks as a group of their own: how they meet, and what is told of them outside.

Such a group counts its ranks from 0; whoever reads of them knows the job's numbers.
"""

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from holdfast.collectives.rendezvous import Rendezvous
from holdfast.collectives.witness import Witness
from holdfast.errors import CommunicationError


class Members:
    """The rendezvous of some of the ranks, while all ranks exchange tables."""

    def __init__(self, table: Rendezvous, ranks: Sequence[int]) -> None:
        self._table = table
        self._ranks = ranks

    @property
    def local_address(self) -> str:
        """This host's address as the others reach it."""
        return self._table.local_address

    def exchange(self, table: dict[str, Any]) -> list[dict[str, Any]]:
        """Give this rank's table; return those of the members. All ranks, of all groups, call."""
        tables = self._table.exchange(table)
        return [tables[rank] for rank in self._ranks]


class Renumbered:
    """Says of the errors of a group, which counts its own ranks, which of all ranks these are.

    A context in which the group is used.
    """

    def __init__(self, ranks: range) -> None:
        some = [*ranks] if len(ranks) <= 4 else [*ranks[:2], "…", ranks[-1]]
        own = [*range(len(ranks))] if len(ranks) <= 4 else [0, 1, "…", len(ranks) - 1]
        self._note = (
            f"counted in a group whose ranks {', '.join(map(str, own))} are the job's "
            f"ranks {', '.join(map(str, some))}"
        )

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, CommunicationError):
            raise type(error)(f"{error} ({self._note})") from error


class Traffic:
    """Tells a witness what all links to a peer carried together."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._figures: dict[int, dict[object, tuple[int, int]]] = {}  # by peer, then by link
        self._lock = threading.Lock()  # each group's links are looked after by a thread of its own

    def add(self, link: object, peer: int, sent: int, received: int) -> None:
        """Take note of the bytes over one of the links to `peer` so far."""
        with self._lock:
            figures = self._figures.setdefault(peer, {})
            figures[link] = sent, received
            self._witness.traffic(
                peer,
                sum(out for out, _ in figures.values()),
                sum(in_ for _, in_ in figures.values()),
            )


class GroupWitness:
    """Tells a witness of a group's peers by the numbers that they have among all ranks."""

    def __init__(self, witness: Witness, ranks: range, traffic: Traffic) -> None:
        self._witness = witness
        self._ranks = ranks
        self._traffic = traffic

    def phase(self, name: str) -> None:
        """Pass it on."""
        self._witness.phase(name)

    def link_lost(self, peer: int, why: str) -> None:
        """Pass it on."""
        self._witness.link_lost(self._ranks[peer], why)

    def link_restored(self, peer: int, seconds: float) -> None:
        """Pass it on."""
        self._witness.link_restored(self._ranks[peer], seconds)

    def traffic(self, peer: int, sent: int, received: int) -> None:
        """Pass it on, with what other groups' links to the same peer carried."""
        self._traffic.add(self, self._ranks[peer], sent, received)
