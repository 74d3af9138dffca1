"""Checkpoints are whole or don't count, whatever happens while one is written."""

import errno
import json
import os
import signal
import warnings

import numpy as np
import pytest
import safetensors.numpy

from holdfast.errors import CheckpointCorrupt, CheckpointError, UsageError
from holdfast.runtime.checkpoint import CheckpointStore
from holdfast.runtime.files import OsFiles


def content(step):
    rng = np.random.default_rng(step)
    return {
        "model": {"weight": rng.normal(size=(17, 5)).astype(np.float32), "bias": np.zeros(5)},
        "optimizer": {"momentum": rng.normal(size=90).astype(np.float32), "count": np.array(step)},
        "state": {"step": step, "random": [2**127 + step, "x"], "schedule": {"rate": 0.1}},
    }


def assert_is(checkpoint, step):
    expected = content(step)
    assert checkpoint.step == step
    assert checkpoint.state == expected["state"]
    for name in ("model", "optimizer"):
        arrays = getattr(checkpoint, name)
        assert arrays.keys() == expected[name].keys()
        for key, array in expected[name].items():
            assert arrays[key].dtype == array.dtype
            assert arrays[key].shape == array.shape
            assert np.array_equal(arrays[key], array)


@pytest.fixture
def reports():
    return []


@pytest.fixture
def store(tmp_path, reports):
    return CheckpointStore(tmp_path / "run" / "checkpoints", report=reports.append)


def test_a_checkpoint_comes_back_as_it_was_saved(store, reports):
    assert store.newest() is None
    assert store.steps() == []
    path = store.save(230, **content(230))
    assert path == store.folder / "step_00000230"
    assert_is(store.newest(), 230)
    assert_is(store.load(path), 230)
    assert reports == []


def test_others_can_read_it(store):
    path = store.save(1, **content(1))
    arrays = safetensors.numpy.load_file(path / "model.safetensors")
    assert np.array_equal(arrays["weight"], content(1)["model"]["weight"])
    assert json.loads((path / "state.json").read_text()) == content(1)["state"]


def test_layout_and_byte_order_of_the_arrays_don_t_matter(store):
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    model = {"f": np.asfortranarray(array), "b": array.astype(">i4"), "e": np.zeros((0, 2))}
    store.save(1, model=model, optimizer={}, state={})
    loaded = store.newest()
    assert np.array_equal(loaded.model["f"], array)
    assert np.array_equal(loaded.model["b"], array)
    assert loaded.model["e"].shape == (0, 2)
    assert loaded.optimizer == {}


def test_the_newest_are_kept(store):
    for step in (1, 2, 3, 4, 5):
        store.save(step, **content(step))
    assert store.steps() == [3, 4, 5]
    assert sorted(each.name for each in store.folder.iterdir()) == [
        f"step_{step:08d}" for step in (3, 4, 5)
    ]


def test_steps_of_more_than_eight_digits_sort_as_numbers(store):
    for step in (99_999_999, 100_000_000):
        store.save(step, **content(step))
    assert_is(store.newest(), 100_000_000)


def test_the_one_just_saved_is_never_the_one_removed(tmp_path, reports):
    store = CheckpointStore(tmp_path, keep=1, report=reports.append)
    store.save(9, **content(9))
    path = store.save(5, **content(5))  # a run that went on from an earlier checkpoint
    assert_is(store.load(path), 5)


def test_saving_a_valid_step_again_changes_nothing(store):
    path = store.save(1, **content(1))
    before = {each: each.stat().st_mtime_ns for each in path.iterdir()}
    assert store.save(1, **content(2)) == path
    assert {each: each.stat().st_mtime_ns for each in path.iterdir()} == before


def damage_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json", "COMMITTED"]
DAMAGES = {
    "a flipped bit": damage_byte,
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "missing": os.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_one_is_named_passed_over_and_replaced(store, reports, name, damage):
    store.save(1, **content(1))
    path = store.save(2, **content(2))
    DAMAGES[damage](path / name)
    with pytest.raises(CheckpointCorrupt, match=str(path)) as refused:
        store.load(path)
    expected = "manifest.json" if name == "COMMITTED" and damage != "missing" else name
    assert expected in str(refused.value)
    assert_is(store.newest(), 1)
    assert len(reports) == 1
    assert str(path) in reports[0]
    store.save(2, **content(2))
    assert_is(store.newest(), 2)
    assert store.steps() == [1, 2]


def test_none_is_left_if_all_are_damaged(store, reports):
    for step in (1, 2):
        (store.save(step, **content(step)) / "state.json").write_text("{}")
    assert store.newest() is None
    assert len(reports) == 2


def test_one_under_another_s_name_is_refused(store):
    path = store.save(1, **content(1))
    path.rename(path.with_name("step_00000007"))
    with pytest.raises(CheckpointCorrupt, match="of step 1"):
        store.load(path.with_name("step_00000007"))


def test_one_may_be_moved_elsewhere(store, tmp_path):
    path = store.save(1, **content(1))
    assert_is(store.load(path.rename(tmp_path / "kept")), 1)


def test_a_folder_that_is_not_there_is_refused(store, tmp_path):
    with pytest.raises(CheckpointCorrupt, match="no such folder"):
        store.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, "from 0"),
        ({"model": {"x": np.array(["text"])}}, "'x' has dtype"),
        ({"optimizer": {"x": np.array([1j])}}, "'x' has dtype complex128"),
        ({"state": {"x": object()}}, "finite JSON"),
        ({"state": {"x": float("nan")}}, "finite JSON"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_refused(store, change, message):
    with pytest.raises(UsageError, match=message):
        store.save(**({"step": 1} | content(1) | change))
    assert store.steps() == []


def test_keep_must_be_positive(tmp_path):
    with pytest.raises(UsageError, match="keep=0"):
        CheckpointStore(tmp_path, keep=0, report=print)


# A disk that fails, and a machine that stops, before the nth system call that writes.


class QuickFiles(OsFiles):
    """Syncs nothing: these tests don't stop the machine they run on."""

    def sync(self, descriptor):
        pass

    def sync_folder(self, path):
        pass


class CountingFiles(QuickFiles):
    """Counts the calls, and calls `before(n)` before the nth, from 1.

    It can also lose what a machine that stops may lose: bytes that weren't synced, and changes of
    a folder's names that weren't.
    """

    def __init__(self, before, graveyard):
        self.calls = 0
        self.before = before
        self.graveyard = graveyard  # what is removed lies here, and may come back
        self.open = {}
        self.unsynced = set()  # files whose bytes aren't on the disk
        self.changes = []  # folder, undo: the oldest first
        self.moved = {}  # where a folder is now that was renamed

    def count(self):
        self.calls += 1
        self.before(self.calls)

    def make_folder(self, path):
        self.count()
        super().make_folder(path)
        self.changes.append((path.parent, lambda: self.bury(path)))

    def create(self, path):
        self.count()
        descriptor = super().create(path)
        self.open[descriptor] = path
        self.unsynced.add(path)
        self.changes.append((path.parent, lambda: self.bury(path)))
        return descriptor

    def write(self, descriptor, data):
        self.count()
        return super().write(descriptor, data[: len(data) // 2] if len(data) > 99 else data)

    def sync(self, descriptor):
        self.count()
        super().sync(descriptor)
        self.unsynced.remove(self.open[descriptor])

    def close(self, descriptor):
        self.count()
        super().close(descriptor)
        del self.open[descriptor]

    def sync_folder(self, path):
        self.count()
        super().sync_folder(path)
        # What changed in a folder that is gone for good went with it.
        self.changes = [
            (folder, undo)
            for folder, undo in self.changes
            if self.now(folder) != path and self.now(folder).exists()
        ]

    def rename(self, source, target):
        self.count()
        super().rename(source, target)
        self.moved[source] = target

        def undo():
            del self.moved[source]
            os.rename(target, source)

        self.changes.append((source.parent, undo))

    def remove(self, path):
        self.count()
        self.remove_either(path)

    def remove_folder(self, path):
        self.count()
        assert not list(path.iterdir())
        self.remove_either(path)

    def remove_either(self, path):
        grave = self.bury(path)
        self.changes.append((path.parent, lambda: os.rename(grave, self.now(path))))

    def now(self, path):
        """Return where `path` is, if its folder or itself was renamed since."""
        if path.parent in self.moved:
            path = self.moved[path.parent] / path.name
        return self.moved.get(path, path)

    def bury(self, path):
        grave = self.graveyard / str(len(list(self.graveyard.iterdir())))
        os.rename(self.now(path), grave)
        return grave

    def lose_bytes(self):
        for path in map(self.now, self.unsynced):
            if path.exists():
                os.truncate(path, path.stat().st_size // 2)

    def lose_names(self):
        while self.changes:
            self.changes.pop()[1]()

    def lose_one_name(self):
        """Lose the oldest change alone: file systems need not keep their order."""
        for folder, undo in self.changes:
            if self.now(folder).exists():
                undo()
                return


LOSSES = {
    "killed": lambda files: None,
    "bytes lost": CountingFiles.lose_bytes,
    "names lost": CountingFiles.lose_names,
    "bytes and names lost": lambda files: (files.lose_bytes(), files.lose_names()),
    "one name lost": CountingFiles.lose_one_name,
}


def prepare(folder):
    """Put down what a save has to deal with: two whole ones, a removal and a write cut short."""
    store = CheckpointStore(folder, keep=2, files=QuickFiles(), report=print)
    for step in (10, 20):
        store.save(step, **content(step))
    half_removed = folder / "step_00000005"
    half_removed.mkdir(parents=True)
    (half_removed / "state.json").write_text("{}")
    half_written = folder / ".tmp-step_00000030"
    half_written.mkdir()
    (half_written / "model.safetensors").write_bytes(b"half")


def prepare_invalid(folder):
    """As above, and the step to be saved is there already, but damaged."""
    prepare(folder)
    store = CheckpointStore(folder, keep=3, files=QuickFiles(), report=print)
    damaged = store.save(30, **content(30))
    damage_byte(damaged / "model.safetensors")


def exit_status_of_a_child(work):
    """Fork, do `work` in the child and return its exit status."""
    with warnings.catch_warnings():
        # Python warns where other threads are (BLAS's); the child takes none of their locks.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # the child must not go on with the parent's tests
            os._exit(99)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.local
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("prepared", [prepare, prepare_invalid])
def test_a_machine_may_stop_before_any_call_that_writes(tmp_path, prepared, loss):
    died = 42
    calls = 0
    for stop_at in range(1, 1000):
        folder = tmp_path / f"stop_{stop_at}"
        graveyard = tmp_path / f"graveyard_{stop_at}"
        graveyard.mkdir()
        prepared(folder)

        def save_and_stop(stop_at=stop_at, folder=folder, graveyard=graveyard):
            def before(call):
                if call == stop_at:
                    LOSSES[loss](files)
                    os._exit(died)

            files = CountingFiles(before, graveyard)
            store = CheckpointStore(folder, keep=2, files=files, report=lambda line: None)
            store.save(30, **content(30))

        status = exit_status_of_a_child(save_and_stop)
        assert status in (0, died), f"call {stop_at}"

        store = CheckpointStore(folder, keep=2, files=QuickFiles(), report=print)
        newest = store.newest()
        assert newest is not None, f"call {stop_at}"
        assert newest.step in (20, 30), f"call {stop_at}"
        assert_is(newest, newest.step)
        for step in store.steps():
            if step != 30 or newest.step == 30 or prepared is prepare:
                assert_is(store.load(folder / f"step_{step:08d}"), step)
        if status == 0:  # save returned: it must be the new one, with no call left to stop at
            assert newest.step == 30
            calls = stop_at - 1
            break
        store.save(40, **content(40))
        assert_is(store.newest(), 40)
        assert len(store.steps()) == 2
        assert all((each / "COMMITTED").is_file() for each in folder.iterdir())
    assert calls > 40


@pytest.mark.local
def test_a_saved_checkpoint_survives_the_loss_of_all_that_is_not_synced(tmp_path):
    (tmp_path / "graveyard").mkdir()
    files = CountingFiles(lambda call: None, tmp_path / "graveyard")
    store = CheckpointStore(tmp_path / "a" / "b", keep=2, files=files, report=print)
    for step in (1, 2, 3):
        store.save(step, **content(step))
        files.lose_bytes()
        files.lose_names()
        assert_is(store.newest(), step)


@pytest.mark.local
def test_a_kill_from_outside_at_any_moment(tmp_path):
    store = CheckpointStore(tmp_path, report=print)
    store.save(0, **content(0))
    for last in range(20):
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            for step in range(100 * last + 1, 100 * last + 100):
                store.save(step, **content(step))
                os.write(writing, b"x")
            os._exit(0)
        os.close(writing)
        for _ in range(last % 3 + 1):  # so many checkpoints are committed by now, at least
            assert os.read(reading, 1) == b"x"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        newest = store.newest()
        assert newest is not None
        assert newest.step > 100 * last
        assert_is(newest, newest.step)


def test_the_disk_may_fail_at_any_call(tmp_path, reports):
    outcomes = set()
    for fail_at in range(1, 1000):
        folder = tmp_path / f"fail_{fail_at}"
        prepare(folder)
        graveyard = tmp_path / f"graveyard_{fail_at}"
        graveyard.mkdir()

        def before(call, fail_at=fail_at):
            if call >= fail_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        files = CountingFiles(before, graveyard)
        store = CheckpointStore(folder, keep=2, files=files, report=reports.append)
        try:
            store.save(30, **content(30))
            outcomes.add("saved")
        except CheckpointError as error:
            outcomes.add(str(error).partition(" could not be written")[0])
        for descriptor in files.open:  # close is one of the calls that failed
            os.close(descriptor)
        newest = CheckpointStore(folder, report=print).newest()
        assert newest is not None
        assert_is(newest, newest.step)
        store = CheckpointStore(folder, keep=2, report=reports.append)
        store.save(40, **content(40))
        assert_is(store.newest(), 40)
        if files.calls < fail_at:
            break
    assert outcomes == {"saved", "the checkpoint of step 30"}


def test_a_full_disk_gets_its_room_back(tmp_path, reports):
    class Full(OsFiles):
        def sync(self, descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = CheckpointStore(tmp_path, files=Full(), report=reports.append)
    with pytest.raises(CheckpointError, match="No space left"):
        store.save(1, **content(1))
    assert list(tmp_path.iterdir()) == []
    assert reports == []
