"""`holdfast clean`: remove what runs that were killed have left on this machine."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from holdfast.errors import UsageError

MPI_PREFIX = "holdfast-mpi-"
MPI_SECONDS = 3600.0
"""A folder in which an `mpiexec` meets its ranks is used for seconds; older ones are nobody's."""


class Leftover(NamedTuple):
    """Something that nobody uses any more, in words, and what removes it."""

    words: str
    remove: Callable[[], None]


def clean(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would be removed, and remove nothing")
    ] = False,
) -> None:
    """Remove what killed runs have left: networks of drills and tests, folders for Ray and MPI.

    The next run sweeps its own kind by itself. Nothing that belongs to a living process is touched.
    Shared memory needs no sweeping: it has no names.
    """
    found = False
    for leftover in leftovers():
        found = True
        if dry_run:
            print(f"would remove {leftover.words}")
            continue
        try:
            leftover.remove()
        except PermissionError:
            raise UsageError(
                f"{leftover.words}: only its owner or root may remove it; run `sudo holdfast clean`"
            ) from None
        print(f"removed {leftover.words}")
    if not found:
        print("nothing was left by killed runs")
    print(
        "shared memory: nothing to do (it has no names, so the kernel frees it with its processes)"
    )


def leftovers() -> Iterator[Leftover]:
    """Yield what was left here; each is looked for after the one before was dealt with."""
    from holdfast.fabric import leftovers as traces  # NumPy, which --help doesn't wait for
    from holdfast.fabric.kernel import namespaces
    from holdfast.launch import ray_folder

    for network in list(namespaces.abandoned()):
        yield Leftover(
            f"network {network}: its namespaces, and the processes in them",
            partial(namespaces.clear, network),
        )
    for folder in list(traces.abandoned()):
        yield Leftover(
            f"network {folder.name}: its processes, and {folder}",
            partial(traces.clear, folder),
        )
    for folder in ray_folder.abandoned(ray_folder.usual_parent()):
        yield _folder("of a local Ray", folder)
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{MPI_PREFIX}*")):
        found = folder.lstat()
        if found.st_uid == os.geteuid() and time.time() - found.st_mtime > MPI_SECONDS:
            yield _folder("in which an mpiexec met its ranks", folder)


def _folder(kind: str, folder: Path) -> Leftover:
    return Leftover(f"the folder {kind}, {folder}", partial(shutil.rmtree, folder))
