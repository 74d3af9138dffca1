"""Files are replaced whole or not at all."""

import errno
import os

import pytest

from holdfast.runtime.files import OsFiles, make_folders, write_atomically, write_synced


class FullDisk(OsFiles):
    """A disk that takes `room` bytes, three at a time, and then no more."""

    def __init__(self, room):
        self.room = room

    def write(self, descriptor, data):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write(descriptor, data[: min(3, self.room)])
        self.room -= written
        return written


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "a"
    write_atomically(path, b"old")
    write_atomically(path, b"")
    assert path.read_bytes() == b""
    write_atomically(path, b"new bytes", FullDisk(room=100))  # in several short writes
    assert path.read_bytes() == b"new bytes"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    write_atomically(path, b"old")
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new bytes", FullDisk(room=5))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_synced_refuses_a_file_that_is_there(tmp_path):
    write_synced(tmp_path / "a", [b"one", b"two"])
    assert (tmp_path / "a").read_bytes() == b"onetwo"
    with pytest.raises(FileExistsError):
        write_synced(tmp_path / "a", [b"three"])


def test_make_folders_makes_what_is_missing_and_syncs_each_parent(tmp_path):
    calls = []

    class Recording(OsFiles):
        def make_folder(self, path):
            calls.append(("make", path))
            super().make_folder(path)

        def sync_folder(self, path):
            calls.append(("sync", path))
            super().sync_folder(path)

    a, b = tmp_path / "a", tmp_path / "a" / "b"
    make_folders(b, Recording())
    assert calls == [("make", a), ("sync", tmp_path), ("make", b), ("sync", a)]
    calls.clear()
    make_folders(b, Recording())
    assert calls == []


def test_make_folders_does_not_mind_that_another_was_first(tmp_path):
    class Late(OsFiles):
        def make_folder(self, path):
            super().make_folder(path)
            super().make_folder(path)

    make_folders(tmp_path / "a", Late())
    assert (tmp_path / "a").is_dir()


def test_make_folders_refuses_a_file_in_the_way(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(OSError, match="a"):
        make_folders(tmp_path / "a" / "b")
