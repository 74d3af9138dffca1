"""Who stands around primitives as they run: profiles, checks, traces, mixed precision."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.core.recording import PLAIN, WATCHED, recording

if TYPE_CHECKING:
    from holdfast.core.primitive import Primitive


class Watcher(Protocol):
    """Stands around every primitive that is run: to time it, to check it, to change its arguments.

    `run(*arguments, **options)` runs it, or the next watcher, and returns its result. A watcher
    with a method `backward(primitive, run, g)` stands around pullbacks too: `run(g)` returns the
    cotangents of the arguments.
    """

    def __call__(
        self,
        primitive: "Primitive",
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        run: Callable[..., Any],
    ) -> Any:
        """Return what `run` does, or something in its stead."""


@contextmanager
def watching(watcher: Watcher, *, innermost: bool = False) -> Iterator[None]:
    """Let `watcher` stand around every primitive that this thread runs inside.

    Watchers nest: the last one added is the outermost, unless it is to be the `innermost`. What a
    watcher computes on tensors itself is seen by those within it only.
    """
    others = recording.watchers
    with as_watched((watcher, *others) if innermost else (*others, watcher)):
        yield


@contextmanager
def as_watched(watchers: tuple[Watcher, ...]) -> Iterator[None]:
    """Let exactly `watchers` stand around the primitives that this thread runs inside."""
    before = recording.watchers
    _watch(watchers)
    try:
        yield
    finally:
        _watch(before)


def _watch(watchers: tuple[Watcher, ...]) -> None:
    recording.watchers = watchers
    recording.mode = (recording.mode & ~WATCHED) | (WATCHED if watchers else PLAIN)


def through_watchers(
    primitive: "Primitive", arguments: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    """Run `primitive` with all watchers around it."""
    watchers, mode = recording.watchers, recording.mode

    def run(depth: int) -> Callable[..., Any]:
        def inner(*arguments: Any, **options: Any) -> Any:
            within = max(depth - 1, 0)
            recording.watchers = watchers[:within]
            recording.mode = mode if within else mode & ~WATCHED
            if not depth:
                return primitive.operation(*arguments, **options)
            return watchers[within](primitive, arguments, options, run(within))

        return inner

    try:
        return run(len(watchers))(*arguments, **options)
    finally:
        recording.watchers, recording.mode = watchers, mode


def observed(
    primitive: "Primitive", pullback: Any, parents: tuple[Any, ...]
) -> Callable[[Any], tuple[Any, ...]]:
    """Return `pullback` with all watchers around it that have something to see there.

    What it leaves to be computed when needed is computed within.
    """

    def run(g: Any) -> tuple[Any, ...]:
        return tuple(
            None if parent is None else part() if callable(part) else part
            for parent, part in zip(parents, pullback(g), strict=False)
        )

    for watcher in recording.watchers:
        stands = getattr(watcher, "backward", None)
        if stands is not None:
            run = partial(stands, primitive, run)
    return run
