"""Fashion-MNIST is found where it lies, fetched where it doesn't, and never half-written."""

import gzip
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from holdfast.errors import DataError
from holdfast.runtime import fetch
from holdfast.runtime.fetch import (
    DEBIAN_PACKAGE,
    cache_folder,
    fetch_fashion_mnist,
    find_fashion_mnist,
    missing_files,
    places,
)

NOWHERE = "http://127.0.0.1:9/"  # the discard port, where nobody listens


@pytest.fixture(scope="module")
def small():
    """A data set of 3 and 2 samples: the files' descriptions and their gzipped bytes."""
    files: list[fetch.DataFile] = []
    packed: dict[str, bytes] = {}
    for name, shape in (
        ("train-images-idx3-ubyte", (3, 28, 28)),
        ("train-labels-idx1-ubyte", (3,)),
        ("t10k-images-idx3-ubyte", (2, 28, 28)),
        ("t10k-labels-idx1-ubyte", (2,)),
    ):
        elements = np.random.default_rng(len(files)).integers(0, 10, size=shape, dtype=np.uint8)
        data = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes() + elements.tobytes()
        packed[name] = gzip.compress(data, mtime=0)
        md5 = hashlib.md5(packed[name], usedforsecurity=False).hexdigest()
        sha256 = hashlib.sha256(data).hexdigest()
        files.append(fetch.DataFile(name, shape, sha256, md5, len(packed[name])))
    return tuple(files), packed


@pytest.fixture(autouse=True)
def _in_fashion_mnist_s_place(small, monkeypatch, tmp_path):
    monkeypatch.setattr(fetch, "FASHION_MNIST_FILES", small[0])
    monkeypatch.setattr(fetch, "SYSTEM_FOLDER", tmp_path / "usr/share/datasets/fashion-mnist")


@pytest.fixture
def environ(tmp_path):
    """A user with a home and no programs: no apt-get."""
    return {"HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "bin")}


@pytest.fixture
def reports():
    return []


def fill(folder, packed):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in packed.items():
        (folder / f"{name}.gz").write_bytes(data)


class Server:
    """The published address, on this host: serves `files` by name and counts what is asked."""

    def __init__(self, files):
        self.files = files
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.path)
                data = outer.files.get(self.path.lstrip("/"))
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server(small):
    server = Server({f"{name}.gz": data for name, data in small[1].items()})
    yield server
    server.close()


def names_in(folder):
    return sorted(each.name for each in folder.iterdir())


WHOLE_CACHE = sorted([".lock", *(f"{each.name}.gz" for each in fetch.FASHION_MNIST_FILES)])


def test_the_real_files_are_described():
    """The fixture stands in for these; nothing else here sees them."""
    sizes = {each.name: each.published_size for each in REAL_FILES}
    assert sizes["train-images-idx3-ubyte"] == 26_421_880
    assert [each.shape for each in REAL_FILES] == [
        (60_000, 28, 28),
        (60_000,),
        (10_000, 28, 28),
        (10_000,),
    ]


REAL_FILES = fetch.FASHION_MNIST_FILES


def test_places_are_looked_at_in_order(tmp_path, environ, small):
    cache = tmp_path / "home/.cache/holdfast/fashion-mnist"
    assert places(environ) == (cache, fetch.SYSTEM_FOLDER)
    environ["HOLDFAST_DATA"] = str(tmp_path / "data")
    assert places(environ) == (
        tmp_path / "data",
        tmp_path / "data/fashion-mnist",
        cache,
        fetch.SYSTEM_FOLDER,
    )
    for folder in reversed(places(environ)):
        fill(folder, small[1])
        assert find_fashion_mnist(environ) == folder


def test_a_relative_cache_is_ignored(tmp_path, environ):
    environ["XDG_CACHE_HOME"] = "relative"
    assert cache_folder(environ) == tmp_path / "home/.cache/holdfast/fashion-mnist"
    environ["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    assert cache_folder(environ) == tmp_path / "cache/holdfast/fashion-mnist"


def test_a_place_that_lacks_a_file_is_passed_over(environ, small):
    fill(fetch.SYSTEM_FOLDER, small[1])
    fill(cache_folder(environ), small[1])
    (cache_folder(environ) / "t10k-labels-idx1-ubyte.gz").unlink()
    assert missing_files(cache_folder(environ)) == ["t10k-labels-idx1-ubyte"]
    assert find_fashion_mnist(environ) == fetch.SYSTEM_FOLDER


def test_what_is_there_is_not_fetched(environ, reports, small):
    fill(fetch.SYSTEM_FOLDER, small[1])
    found = fetch_fashion_mnist(reports.append, environ=environ, address=NOWHERE)
    assert found == fetch.SYSTEM_FOLDER
    assert reports == [f"Fashion-MNIST is in {found}"]


def test_a_wrong_file_outside_the_cache_is_named_and_left(environ, reports, small):
    fill(fetch.SYSTEM_FOLDER, small[1])
    wrong = fetch.SYSTEM_FOLDER / "t10k-images-idx3-ubyte.gz"
    wrong.write_bytes(small[1]["train-images-idx3-ubyte"])
    with pytest.raises(DataError, match=f"{wrong}: another file"):
        fetch_fashion_mnist(reports.append, environ=environ, address=NOWHERE)
    assert wrong.exists()


@pytest.mark.local
def test_it_is_fetched_from_its_address(environ, reports, server):
    cache = fetch_fashion_mnist(reports.append, environ=environ, address=server.address)
    assert cache == cache_folder(environ) == find_fashion_mnist(environ)
    assert names_in(cache) == WHOLE_CACHE
    assert any("apt-get and dpkg-deb are not both" in line for line in reports)
    assert fetch_fashion_mnist(reports.append, environ=environ, address=server.address) == cache
    assert len(server.asked) == 4


@pytest.mark.local
def test_a_wrong_file_in_the_cache_is_replaced(environ, reports, server):
    cache = fetch_fashion_mnist(reports.append, environ=environ, address=server.address)
    (cache / "train-labels-idx1-ubyte").write_bytes(b"wrong, and found before the .gz")
    fetch_fashion_mnist(reports.append, environ=environ, address=server.address)
    assert any("train-labels-idx1-ubyte: not an IDX file" in line for line in reports)
    assert names_in(cache) == WHOLE_CACHE
    assert len(server.asked) == 8


@pytest.mark.local
@pytest.mark.parametrize("wrong", [b"", b"<html>sign in to the network</html>", None])
def test_a_wrong_answer_is_refused_by_name(environ, reports, server, wrong):
    server.files["t10k-labels-idx1-ubyte.gz"] = wrong
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz (is|cannot)") as refused:
        fetch_fashion_mnist(reports.append, environ=environ, address=server.address)
    for place in places(environ):
        assert str(place) in str(refused.value)
    for part in ("apt-get", server.address, "HOLDFAST_DATA", DEBIAN_PACKAGE):
        assert part in str(refused.value)
    assert names_in(cache_folder(environ)) == [".lock"]


@pytest.mark.local
def test_a_server_that_is_not_there(environ, reports):
    with pytest.raises(DataError, match=r"cannot be read: .*refused"):
        fetch_fashion_mnist(reports.append, environ=environ, address=NOWHERE)


def test_a_cache_that_cannot_be_written(tmp_path, environ, reports):
    (tmp_path / "home").write_text("a file in the way")
    with pytest.raises(DataError, match="Set XDG_CACHE_HOME"):
        fetch_fashion_mnist(reports.append, environ=environ, address=NOWHERE)


@pytest.mark.local
def test_what_a_killed_fetch_left_is_swept(environ, reports, server):
    leftover = cache_folder(environ) / ".fetch-killed"
    leftover.mkdir(parents=True)
    (leftover / "half").write_bytes(b"half")
    cache = fetch_fashion_mnist(reports.append, environ=environ, address=server.address)
    assert names_in(cache) == WHOLE_CACHE


@pytest.mark.local
def test_of_several_that_fetch_at_once_one_does_it(environ, server):
    reports: list[list[str]] = [[] for _ in range(4)]
    found: list[object] = []

    def work(lines):
        found.append(fetch_fashion_mnist(lines.append, environ=environ, address=server.address))

    threads = [threading.Thread(target=work, args=(lines,)) for lines in reports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [cache_folder(environ)] * 4
    assert len(server.asked) == 4
    assert names_in(cache_folder(environ)) == WHOLE_CACHE


@pytest.mark.local
def test_an_interrupted_fetch_leaves_nothing(environ, reports, server):
    class Interrupt(BaseException):
        pass

    def report(line):
        if "t10k-images" in line:
            raise Interrupt

    with pytest.raises(Interrupt):
        fetch_fashion_mnist(report, environ=environ, address=server.address)
    assert names_in(cache_folder(environ)) == [".lock"]
    fetch_fashion_mnist(reports.append, environ=environ, address=server.address)
    assert names_in(cache_folder(environ)) == WHOLE_CACHE


def debian_repository(folder, packed):
    """Build a flat repository that has the package, as small as its files are."""
    root = folder / "package"
    fill(root / "usr/share/datasets/fashion-mnist", packed)
    (root / "DEBIAN").mkdir()
    control = (
        f"Package: {DEBIAN_PACKAGE}\nVersion: 0.0-1\nArchitecture: all\n"
        "Maintainer: Test <t@localhost>\nDescription: test\n"
    )
    (root / "DEBIAN/control").write_text(control)
    deb = f"{DEBIAN_PACKAGE}_0.0-1_all.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", root, folder / deb],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    data = (folder / deb).read_bytes()
    packages = (
        f"{control}Filename: ./{deb}\nSize: {len(data)}\n"
        f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
    )
    return {f"./{deb}": data, deb: data, "./Packages": packages.encode()}


@pytest.mark.local
@pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-deb")),
    reason="apt-get and dpkg-deb are not on this machine",
)
def test_it_is_fetched_from_debian_s_package_with_empty_lists(tmp_path, environ, reports, small):
    server = Server({})
    try:
        server.files |= debian_repository(tmp_path, small[1])
        (tmp_path / "empty/partial").mkdir(parents=True)
        (tmp_path / "sources.list").write_text(f"deb [trusted=yes] {server.address} ./\n")
        (tmp_path / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "-";\n'
            f'Dir::State::Lists "{tmp_path}/empty";\nAcquire::http::Proxy "DIRECT";\n'
            'APT::Update::Post-Invoke { "touch /nowhere/hooks-must-not-run; exit 1"; };\n'
        )
        environ |= {"PATH": os.environ["PATH"], "APT_CONFIG": str(tmp_path / "apt.conf")}
        cache = fetch_fashion_mnist(reports.append, environ=environ, address=NOWHERE)
    finally:
        server.close()
    assert names_in(cache) == WHOLE_CACHE
    assert reports == [
        f"fetching Debian's package {DEBIAN_PACKAGE} (31 MB) with apt-get",
        "the machine's package lists don't lead to it; reading lists of our own",
        f"Fashion-MNIST is in {cache}",
    ]


@pytest.mark.local
def test_the_address_is_next_where_apt_get_fails(tmp_path, environ, reports, server):
    (tmp_path / "bin").mkdir()
    for name in ("apt-get", "dpkg-deb"):
        program = tmp_path / "bin" / name
        program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('E: no network today')\n")
        program.chmod(0o755)
    cache = fetch_fashion_mnist(reports.append, environ=environ, address=server.address)
    assert names_in(cache) == WHOLE_CACHE
    assert any("ended with status 1: E: no network today" in line for line in reports)
