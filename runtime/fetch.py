"""Where Fashion-MNIST's files lie on a machine, and how they get there.

Rule: a file is put in place whole or not at all, and only after its contents have been checked; so
a fetch may be interrupted, and several processes may fetch at once.
"""

import contextlib
import fcntl
import hashlib
import http.client
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import DataError
from holdfast.runtime.files import write_atomically
from holdfast.runtime.idx import read_idx

Report = Callable[[str], None]


@dataclass(frozen=True)
class DataFile:
    """One file of a data set: its name without .gz, what it holds, and how it was published.

    `sha256` is of the uncompressed bytes, so that it is the same for every way of packing them;
    `published_md5` and `published_size` are those of the publisher's own .gz file.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str
    published_md5: str
    published_size: int


# Debian's package holds the published files with the name and time taken out of their gzip
# headers; put back, they have the published MD5, so both are the same bytes uncompressed.
FASHION_MNIST_FILES = (
    DataFile(
        "train-images-idx3-ubyte",
        (60_000, 28, 28),
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        26_421_880,
    ),
    DataFile(
        "train-labels-idx1-ubyte",
        (60_000,),
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "25c81989df183df01b3e8a0aad5dffbe",
        29_515,
    ),
    DataFile(
        "t10k-images-idx3-ubyte",
        (10_000, 28, 28),
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "bef4ecab320f06d8554ea6380940ec79",
        4_422_102,
    ),
    DataFile(
        "t10k-labels-idx1-ubyte",
        (10_000,),
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        "bb300cfdad3c16e7a12a480ee83cd310",
        5_148,
    ),
)

FASHION_MNIST_ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
DEBIAN_PACKAGE = "dataset-fashion-mnist"
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where that package puts the files when it is installed."""

_HOW_TO_GET_IT = (
    f"To get it by hand, fetch {', '.join(f'{each.name}.gz' for each in FASHION_MNIST_FILES)} from "
    f"{FASHION_MNIST_ADDRESS} (or unpack Debian's package {DEBIAN_PACKAGE}) on a machine that "
    f"reaches the network, put them in one folder, and set HOLDFAST_DATA to it."
)
_COMMAND_DEADLINE = 600.0  # seconds; apt gives up on a silent server long before
_SILENCE = 30.0  # seconds in which a server must send something
_LOCK_DEADLINE = 3 * _COMMAND_DEADLINE
_LOCK_POLL = 0.1  # seconds


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder in the user's cache where Fashion-MNIST is kept once fetched."""
    configured = environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(configured):  # the specification says to ignore relative ones
        base = Path(configured)
    else:
        base = Path(environ.get("HOME") or os.path.expanduser("~")) / ".cache"
    return base / "holdfast" / "fashion-mnist"


def places(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the folders where Fashion-MNIST is looked for, in order."""
    given = environ.get("HOLDFAST_DATA")
    own = (Path(given), Path(given) / "fashion-mnist") if given else ()
    return (*own, cache_folder(environ), SYSTEM_FOLDER)


def find_file(folder: Path, file: DataFile) -> Path:
    """Return where `file` lies in `folder`, as .gz or not; the .gz path if it is not there."""
    plain = folder / file.name
    return plain if plain.is_file() else folder / f"{file.name}.gz"


def missing_files(folder: Path) -> list[str]:
    """Return the names of Fashion-MNIST's files that `folder` lacks."""
    return [each.name for each in FASHION_MNIST_FILES if not find_file(folder, each).is_file()]


def find_fashion_mnist(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the first of `places` that has all four files, unchecked, or None."""
    return next((folder for folder in places(environ) if not missing_files(folder)), None)


def fetch_fashion_mnist(
    report: Report = print,
    *,
    environ: Mapping[str, str] = os.environ,
    address: str = FASHION_MNIST_ADDRESS,
) -> Path:
    """Return a folder that holds Fashion-MNIST's four files, whole; fetch them if there is none.

    Fetched files go to the user's cache: from Debian's package where apt-get is there (no root is
    needed), else from `address`. `report` gets a line for each thing done. Raises DataError if a
    place other than the cache holds a wrong file (one in the cache is replaced), or if nothing
    worked; then it lists the places and the reasons.
    """
    cache = cache_folder(environ)
    found = find_fashion_mnist(environ)
    if found is not None and found != cache:
        check_files(found)
        report(f"Fashion-MNIST is in {found}")
        return found
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache, report):
            if _is_whole(cache, report):
                report(f"Fashion-MNIST is in {cache}")
            else:
                _fetch_into(cache, report, environ, address)
    except OSError as error:
        raise DataError(
            f"Fashion-MNIST cannot be put into {cache}: {error}. Set XDG_CACHE_HOME to a folder "
            f"that can be written to. {_HOW_TO_GET_IT}"
        ) from error
    return cache


def check_files(folder: Path) -> None:
    """Raise DataError, naming the file, if one of Fashion-MNIST's in `folder` isn't what it was."""
    for each in FASHION_MNIST_FILES:
        read_idx(find_file(folder, each), shape=each.shape, sha256=each.sha256)


def _is_whole(cache: Path, report: Report) -> bool:
    if missing_files(cache):
        return False
    try:
        check_files(cache)
    except DataError as error:
        report(f"{error}; fetching it again")
        return False
    return True


def _fetch_into(cache: Path, report: Report, environ: Mapping[str, str], address: str) -> None:
    """Fetch the four files into `cache`, whose lock is held."""
    for leftover in cache.glob(".fetch-*"):  # of a fetch that was killed: the lock is ours
        shutil.rmtree(leftover)
    sources: dict[str, Callable[[Path], Path]] = {
        "apt-get": lambda aside: _from_debian(aside, report, environ),
        address: lambda aside: _from_address(aside, report, address),
    }
    reasons = []
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as aside:
        for name, source in sources.items():
            try:
                folder = source(Path(aside))
                check_files(folder)
            except DataError as error:
                report(f"Fashion-MNIST did not come from {name}: {error}")
                reasons.append(f"{name}: {error}")
                continue
            for each in FASHION_MNIST_FILES:
                packed = folder / f"{each.name}.gz"
                write_atomically(cache / packed.name, packed.read_bytes())
                (cache / each.name).unlink(missing_ok=True)  # a wrong one would be found first
            report(f"Fashion-MNIST is in {cache}")
            return
    looked_in = ", ".join(str(place) for place in places(environ))
    raise DataError(
        f"Fashion-MNIST is not on this machine and could not be fetched. Looked in {looked_in}. "
        f"Tried {'; '.join(reasons)}. {_HOW_TO_GET_IT}"
    )


def _from_debian(aside: Path, report: Report, environ: Mapping[str, str]) -> Path:
    """Download and unpack Debian's package below `aside`, as whoever runs this."""
    apt = shutil.which("apt-get", path=environ.get("PATH"))
    unpack = shutil.which("dpkg-deb", path=environ.get("PATH"))
    if apt is None or unpack is None:
        raise DataError("apt-get and dpkg-deb are not both on this machine")
    report(f"fetching Debian's package {DEBIAN_PACKAGE} (31 MB) with apt-get")
    machine_lists, own_lists = aside / "machine.conf", aside / "own.conf"
    machine_lists.write_text(_apt_settings(aside))
    (aside / "lists" / "partial").mkdir(parents=True)
    own_lists.write_text(f'{_apt_settings(aside)}Dir::State::Lists "{aside}/lists";\n')
    download = ["download", DEBIAN_PACKAGE]
    try:
        _run([apt, "-c", str(machine_lists), *download], aside, environ)
    except DataError:
        report("the machine's package lists don't lead to it; reading lists of our own")
        with contextlib.suppress(DataError):  # one dead source of many: the download will tell
            _run([apt, "-c", str(own_lists), "update"], aside, environ)
        _run([apt, "-c", str(own_lists), *download], aside, environ)
    packages = list(aside.glob(f"{DEBIAN_PACKAGE}_*.deb"))
    if len(packages) != 1:
        raise DataError(f"expected one package from apt-get download, found {len(packages)}")
    _run([unpack, "-x", str(packages[0]), str(aside / "package")], aside, environ)
    return aside / "package/usr/share/datasets/fashion-mnist"


def _apt_settings(aside: Path) -> str:
    """Return an apt configuration that needs no root: caches of our own, and no hooks."""
    return (
        f'Dir::Cache "{aside}/cache";\n'
        'APT::Sandbox::User "root";\n'  # not the user _apt, who may not write here
        f'Acquire::http::Timeout "{_SILENCE:.0f}";\nAcquire::Retries "1";\n'
        "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n"
        "#clear APT::Update::Post-Invoke-Success;\n"
    )


def _run(command: list[str], folder: Path, environ: Mapping[str, str]) -> None:
    """Run `command` in `folder`; raise DataError with what it said if it fails."""
    short = " ".join([Path(command[0]).name, *command[-2:]])
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_COMMAND_DEADLINE,
            text=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"`{short}` did not end within {_COMMAND_DEADLINE:.0f} s") from error
    if done.returncode != 0:
        said = " ".join(done.stdout.split())[-300:] or "it said nothing"
        raise DataError(f"`{short}` ended with status {done.returncode}: {said}")


def _from_address(aside: Path, report: Report, address: str) -> Path:
    """Download the published files into a folder below `aside`."""
    folder = aside / "published"
    folder.mkdir()
    for each in FASHION_MNIST_FILES:
        url = f"{address.rstrip('/')}/{each.name}.gz"
        report(f"fetching {url} ({each.published_size:,} bytes)")
        try:
            with urllib.request.urlopen(url, timeout=_SILENCE) as answer:
                data = answer.read(each.published_size + 1)
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise DataError(f"{url} cannot be read: {error}") from error
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if digest != each.published_md5:
            raise DataError(
                f"{url} is truncated or another file: expected {each.published_size} bytes with "
                f"the published MD5 {each.published_md5}, found {len(data)} with {digest}"
            )
        (folder / f"{each.name}.gz").write_bytes(data)
    return folder


@contextlib.contextmanager
def _locked(folder: Path, report: Report) -> Iterator[None]:
    """Hold the lock of `folder` against other processes; the system frees it if we die.

    Raises DataError if another process holds it for longer than any fetch can last.
    """
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + _LOCK_DEADLINE
        waiting = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    report("another process is fetching Fashion-MNIST; waiting for it")
                    waiting = True
            if time.monotonic() > deadline:
                raise DataError(
                    f"another process has held {folder / '.lock'} for {_LOCK_DEADLINE:.0f} s; end "
                    f"it, or remove that file"
                )
            time.sleep(_LOCK_POLL)
        yield
    finally:
        os.close(descriptor)
