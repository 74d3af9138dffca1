"""How a worker's environment describes what its links run over; parsed once.

| variable | what | default |
|---|---|---|
| HOLDFAST_INTERFACES | interfaces or addresses, as `eth0,eth1`: a rail over each | one |
| HOLDFAST_RAILS | connections for each interface | 1 |
| HOLDFAST_CHECKSUM | `none`, `fold` or `crc32c`: of each message's payload | none |
| HOLDFAST_CONGESTION | the kernel's congestion control for these connections | the system's |
| HOLDFAST_TLS_CERT, _KEY, _CA | PEM files: links are encrypted where all three are given | none |
| HOLDFAST_ALGORITHM | `ring`, `halving-doubling`, …, or `auto`: the fastest by the model | auto |
| HOLDFAST_MODEL | the cost model's file that `holdfast bench tune -o` wrote | built in |

All ranks need the same rails, checksum and TLS; algorithm and model are rank 0's.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from holdfast.collectives import LinkConfig
from holdfast.collectives.cost import CostModel
from holdfast.collectives.links.checksum import ChecksumName
from holdfast.collectives.links.tls import Tls
from holdfast.errors import HoldfastError, UsageError

_TLS = ("HOLDFAST_TLS_CERT", "HOLDFAST_TLS_KEY", "HOLDFAST_TLS_CA")


@dataclass(frozen=True)
class Wires:
    """What links run over, and by which algorithm: see `GroupConfig` and `LinkConfig`."""

    interfaces: tuple[str, ...] = ()
    link: LinkConfig = field(default_factory=LinkConfig)
    algorithm: str = "auto"
    model: CostModel | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Wires":
        """Read it from the environment.

        Raises UsageError, or MissingDependency, naming a bad variable.
        """
        return cls(
            interfaces=tuple(
                name.strip()
                for name in environ.get("HOLDFAST_INTERFACES", "").split(",")
                if name.strip()
            ),
            link=_link(environ),
            algorithm=environ.get("HOLDFAST_ALGORITHM") or "auto",
            model=_model(environ.get("HOLDFAST_MODEL", "")),
        )


def _link(environ: Mapping[str, str]) -> LinkConfig:
    link = LinkConfig(congestion=environ.get("HOLDFAST_CONGESTION", ""), tls=_tls(environ))
    rails = environ.get("HOLDFAST_RAILS") or str(link.rails)
    if not rails.isdecimal():
        raise UsageError(f"HOLDFAST_RAILS must be a whole number, found {rails!r}")
    with _blamed("HOLDFAST_RAILS"):
        link = replace(link, rails=int(rails))
    checksum = environ.get("HOLDFAST_CHECKSUM") or link.checksum
    with _blamed("HOLDFAST_CHECKSUM"):
        return replace(link, checksum=cast(ChecksumName, checksum))


@contextmanager
def _blamed(variable: str) -> Iterator[None]:
    """Say of an error in what variable it is."""
    try:
        yield
    except HoldfastError as error:
        raise type(error)(f"{variable}: {error}") from None


def _tls(environ: Mapping[str, str]) -> Tls | None:
    given = [environ.get(name, "") for name in _TLS]
    if not any(given):
        return None
    if not all(given):
        missing = [name for name, value in zip(_TLS, given, strict=True) if not value]
        raise UsageError(f"TLS needs {', '.join(_TLS)} together; not set: {', '.join(missing)}")
    certificate, key, authority = map(Path, given)
    tls = Tls(certificate, key, authority)
    with _blamed(", ".join(_TLS)):
        for listening in (True, False):
            tls.context(listening=listening)  # a file that is of no use is told here
    return tls


def _model(path: str) -> CostModel | None:
    if not path:
        return None
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(
            f"HOLDFAST_MODEL={path} cannot be read: {why}; `holdfast bench tune -o FILE` writes "
            "such a file"
        ) from None
    with _blamed(f"HOLDFAST_MODEL={path}"):
        return CostModel.from_json(text)
