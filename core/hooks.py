"""Functions that are called when something happens, and can be taken away again."""

import itertools
from collections.abc import Callable
from typing import Any

Hooks = dict[int, Callable[..., Any]]
_next_key = itertools.count().__next__


class RemovableHandle:
    """Stands for one hook in a table of hooks; hooks are called in the order of the table."""

    def __init__(self, hooks: Hooks, hook: Callable[..., Any], first: bool = False) -> None:
        self._hooks, self._key = hooks, _next_key()
        later = dict(hooks) if first else {}
        if first:
            hooks.clear()
        hooks[self._key] = hook
        hooks.update(later)

    def remove(self) -> None:
        """Take the hook away; nothing happens if it is gone already."""
        self._hooks.pop(self._key, None)

    def __enter__(self) -> "RemovableHandle":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
