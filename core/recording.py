"""Whether operations leave a graph behind, and whether they are watched: a state of each thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import _GeneratorContextManager

PLAIN, GRAPH, WATCHED = 0, 1, 2
"""Modes are added: GRAPH + WATCHED records and is watched."""


class _Recording(threading.local):
    """The mode is one number, so that an operation asks once."""

    mode = GRAPH
    watchers: tuple[Any, ...] = ()  # see watch.py

    @property
    def enabled(self) -> bool:
        """Whether a graph is recorded."""
        return bool(self.mode & GRAPH)


recording = _Recording()


@contextmanager
def set_grad_enabled(enabled: bool) -> Iterator[None]:
    """Record a graph inside, or none; a context manager and a decorator. Per thread."""
    before = recording.mode
    recording.mode = (before & ~GRAPH) | (GRAPH if enabled else PLAIN)
    try:
        yield
    finally:
        recording.mode = before


def no_grad() -> "_GeneratorContextManager[None]":
    """Record no graph inside; a context manager and a decorator. Per thread."""
    return set_grad_enabled(False)


def enable_grad() -> "_GeneratorContextManager[None]":
    """Record the graph inside, even within `no_grad()`; a context manager and a decorator."""
    return set_grad_enabled(True)


def is_grad_enabled() -> bool:
    """Return whether operations of this thread leave a graph behind."""
    return recording.enabled
