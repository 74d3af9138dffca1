"""Where arrays are: `cpu`, or the GPU that a worker computes on."""

from typing import Any

from holdfast.errors import UsageError

DEVICES = ("cpu", "cuda")


class Device(str):
    """A device's name, "cpu" or "cuda", which is all that it is compared and looked up by.

    Made of a name, one with an index such as "cuda:0", or a name and an index. A worker has one
    GPU, number 0 of those that it sees: the launcher gives each its own. Raises UsageError for
    others.
    """

    type: str
    index: int | None  # type: ignore[assignment]

    def __new__(cls, type: str, index: int | None = None) -> "Device":
        """Check the name and the index."""
        name, colon, number = type.partition(":")
        if colon and index is None and number.isdecimal():
            index, colon = int(number), ""
        if name not in DEVICES or colon or index not in (None, 0):
            asked = type if index is None or ":" in type else f"{type}:{index}"
            raise UsageError(
                f"device: 'cpu', 'cuda' or 'cuda:0' was expected, found {asked!r}; "
                "CUDA_VISIBLE_DEVICES says which GPU is number 0"
            )
        made = super().__new__(cls, name)
        made.type, made.index = name, index
        return made

    def __repr__(self) -> str:
        index = "" if self.index is None else f", index={self.index}"
        return f"device(type={self.type!r}{index})"

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.type, self.index


device = Device
CPU, CUDA = Device("cpu"), Device("cuda")
