"""What `holdfast bench COLLECTIVE` is asked to measure: options, parsed, checked and frozen."""

import re
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import UsageError
from holdfast.launch.bandwidth.ranks.collectives import COLLECTIVES, Collective

TRANSPORTS = ("shm", "tcp")
PEERS = ("gloo", "openmpi", "mpich")
# The inputs are small integers whose sums float32 holds exactly up to this many ranks.
MOST_RANKS = 256
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class CollectiveSpec:
    """A benchmark of a collective: `sizes` in bytes; `iters` 0 and `warmup` None are chosen.

    With `limit`, plain sockets are measured beside TCP.
    """

    collective: str
    sizes: tuple[int, ...]
    ranks: int = 2
    transports: tuple[str, ...] = TRANSPORTS
    peers: tuple[str, ...] = ()
    rounds: int = 5
    iters: int = 0
    warmup: int | None = None
    check: bool = True
    limit: bool = False
    min_busbw: float = 0.0
    json_file: Path | None = None
    plot_file: Path | None = None

    def __post_init__(self) -> None:
        if self.collective not in COLLECTIVES:
            raise UsageError(f"{', '.join(COLLECTIVES)} are known, {self.collective!r} was given")
        if not 2 <= self.ranks <= MOST_RANKS:
            raise UsageError(f"--ranks: 2 to {MOST_RANKS} were expected, {self.ranks} was given")
        if not self.sizes:
            raise UsageError("--sizes: at least one size was expected")
        for size in self.sizes:
            if size <= 0 or size % 4:
                raise UsageError(
                    f"sizes are whole float32 elements: a positive multiple of 4 bytes was "
                    f"expected, {size} was given"
                )
        # Those that the arrays can have, each once.
        sizes = dict.fromkeys(self.what.bytes_near(size, self.ranks) for size in self.sizes)
        object.__setattr__(self, "sizes", tuple(sizes))
        _known("--transport", self.transports, TRANSPORTS)
        _known("--against", self.peers, PEERS)
        if not self.transports and not self.peers:
            raise UsageError("nothing to measure: give --transport, --against or both")
        if self.rounds < 1:
            raise UsageError(f"--rounds: at least 1 was expected, {self.rounds} was given")
        if self.iters < 0:
            raise UsageError(f"--iters: 0 (chosen) or more was expected, {self.iters} was given")
        if self.warmup is not None and self.warmup < 0:
            raise UsageError(f"--warmup: 0 or more was expected, {self.warmup} was given")
        if self.min_busbw < 0:
            raise UsageError(
                f"--min-busbw: GB/s, 0 or more, were expected, {self.min_busbw} was given"
            )
        if self.min_busbw and not self.transports:
            raise UsageError("--min-busbw is about Holdfast: give --transport with it")
        if self.limit and "tcp" not in self.transports:
            raise UsageError("--limit is that of a wire: give --transport tcp with it")
        if self.collective == "barrier" and (self.min_busbw or self.limit or self.plot_file):
            raise UsageError("a barrier moves nothing: no --min-busbw, --limit or --plot of it")
        check_files(self.json_file, self.plot_file)

    @property
    def what(self) -> Collective:
        """The collective."""
        return COLLECTIVES[self.collective]


def check_files(json_file: Path | None, plot_file: Path | None) -> None:
    """Raise UsageError for files that could not be written once all is measured."""
    for option, file in (("--json", json_file), ("--plot", plot_file)):
        if file is not None and not file.absolute().parent.is_dir():
            raise UsageError(f"{option}: the folder {file.absolute().parent} is not there")
    if plot_file is not None and plot_file.suffix.lower() != ".png":
        raise UsageError(f"--plot: a file named .png was expected, {plot_file} was given")


def check_size(size: int, rounds: int) -> None:
    """Raise UsageError for a number of bytes (0: chosen) or of rounds that cannot be measured."""
    if size < 0 or size % 4:
        raise UsageError(f"--size: a multiple of 4 bytes was expected, {size} was given")
    if rounds < 1:
        raise UsageError(f"--rounds: at least 1 was expected, {rounds} was given")


def _known(option: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise UsageError(f"{option}: {', '.join(known)} are known, {name!r} was given")


def parse_size(text: str) -> int:
    """Return the bytes of "100M", "64K", "4096": K, M and G are powers of two, as in nccl-tests."""
    match = re.fullmatch(r"(\d+)([KMG]?)(?:I?B)?", text.strip().upper())
    if match is None:
        raise UsageError(f"a size such as 4096, 64K, 25M or 1G was expected, {text!r} was given")
    return int(match[1]) * _UNITS[match[2]]


def format_size(size: int) -> str:
    """Return `size` as `parse_size` reads it, as short as it is exact."""
    for suffix in ("G", "M", "K"):
        if size % _UNITS[suffix] == 0:
            return f"{size // _UNITS[suffix]}{suffix}"
    return str(size)


def size_sequence(smallest: int, largest: int, factor: int) -> tuple[int, ...]:
    """Return `smallest` times powers of `factor` below `largest`, and `largest` itself as the last.

    64K to 100M by 4 are 64K, 256K, 1M, 4M, 16M, 64M and 100M.
    """
    if factor < 2:
        raise UsageError(f"--step-factor: at least 2 was expected, {factor} was given")
    if not 0 < smallest <= largest:
        raise UsageError(
            f"--min-bytes at most --max-bytes, and above 0, were expected, "
            f"{smallest} and {largest} were given"
        )
    sizes = []
    size = smallest
    while size < largest:
        sizes.append(size)
        size *= factor
    return (*sizes, largest)


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names in "a,b", each once; "none" and "" are no name."""
    names = [name.strip() for name in text.split(",")]
    return tuple(dict.fromkeys(name for name in names if name not in ("", "none")))


def parse_sizes(text: str) -> tuple[int, ...]:
    """Return the sizes in "64K,1M,100M", each once, ascending."""
    return tuple(sorted({parse_size(part) for part in text.split(",")}))
