"""Whether operations leave a graph behind, and whether they are watched: a state of each thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from contextlib import _GeneratorContextManager

P = ParamSpec("P")
T = TypeVar("T")

PLAIN, GRAPH, WATCHED = 0, 1, 2
"""Modes are added: GRAPH + WATCHED records and is watched."""


class Tracer(Protocol):
    """Turns a run into a program, and so has to know what goes past the primitives."""

    def read(self, array: Any) -> None:
        """Take note that Python reads values; raise if they come from an input."""


class _Recording(threading.local):
    """The mode is one number, so that an operation asks once."""

    mode = GRAPH
    watchers: tuple[Any, ...] = ()  # see watch.py
    tracer: "Tracer | None" = None

    @property
    def enabled(self) -> bool:
        """Whether a graph is recorded."""
        return bool(self.mode & GRAPH)


recording = _Recording()


class set_grad_enabled:
    """Record a graph from now on, or none; as a context manager until it ends. Per thread.

    As a decorator it does so within the function.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled, self._before = enabled, recording.enabled
        _record(enabled)

    def __enter__(self) -> None:
        _record(self._enabled)

    def __exit__(self, *_: object) -> None:
        _record(self._before)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return a function that does what `function` does, in this mode."""
        _record(self._before)
        return _in_mode(self._enabled)(function)


def _record(enabled: bool) -> None:
    recording.mode = (recording.mode & ~GRAPH) | (GRAPH if enabled else PLAIN)


@contextmanager
def _in_mode(enabled: bool) -> Iterator[None]:
    before = recording.enabled
    _record(enabled)
    try:
        yield
    finally:
        _record(before)


def no_grad() -> "_GeneratorContextManager[None]":
    """Record no graph inside; a context manager and a decorator. Per thread."""
    return _in_mode(False)


def enable_grad() -> "_GeneratorContextManager[None]":
    """Record the graph inside, even within `no_grad()`; a context manager and a decorator."""
    return _in_mode(True)


def is_grad_enabled() -> bool:
    """Return whether operations of this thread leave a graph behind."""
    return recording.enabled
