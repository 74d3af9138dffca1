"""The two bindings of NCCL: what they hand over, over stand-ins and over those installed."""

import ctypes
import sys
import types

import pytest

from holdfast.collectives.nccl import binding as bindings
from holdfast.collectives.nccl.binding import ID_BYTES, Nccl4py, NcclError, PyNccl, load_binding
from holdfast.collectives.nccl.state import Result
from holdfast.errors import MissingDependency, UsageError

COLLECTIVES = {
    "all_reduce": (1, 2, 3, 7, 0, "comm", 9),
    "reduce_scatter": (1, 2, 3, 7, 0, "comm", 9),
    "all_gather": (1, 2, 3, 7, "comm", 9),
    "broadcast": (1, 2, 3, 7, 1, "comm", 9),
    "reduce": (1, 2, 3, 7, 0, 1, "comm", 9),
    "send": (1, 3, 7, 1, "comm", 9),
    "recv": (2, 3, 7, 1, "comm", 9),
}


class Theirs:
    """nccl4py's low-level module: same names, same order of arguments (nccl4py 0.6.0)."""

    class NCCLError(Exception):
        def __init__(self, status):
            super().__init__(f"status {status}")
            self.status = status

    class Config:
        ptr = 77

    class UniqueId:
        def __init__(self, data=bytes(range(ID_BYTES))):
            self.data = bytes(data)
            self.ptr = 78

        def __bytes__(self):
            return self.data

        @classmethod
        def from_buffer(cls, data):
            return cls(data)

    def __init__(self, version=23203):
        self.version = version
        self.calls = []
        self.state = 0

    def get_version(self):
        return self.version

    def get_unique_id(self):
        return self.UniqueId()

    def get_last_error(self, comm):
        return "socket closed\n"

    def comm_get_async_error(self, comm):
        return self.state

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name, *arguments))
            return "comm"

        return call


@pytest.fixture
def theirs(monkeypatch):
    module = Theirs()
    monkeypatch.setitem(sys.modules, "nccl", types.ModuleType("nccl"))
    monkeypatch.setitem(sys.modules, "nccl.bindings", types.ModuleType("nccl.bindings"))
    monkeypatch.setitem(sys.modules, "nccl.bindings.nccl", module)
    return module


def test_versions_before_and_after_2_9():
    assert bindings.parse_version(2708) == (2, 7, 8)
    assert bindings.parse_version(22703) == (2, 27, 3)


def test_nccl4py_is_handed_pointers(theirs):
    binding = Nccl4py()
    assert binding.abilities == ((2, 32, 3), 2**63 - 1, False, True, True, True)
    assert binding._config.blocking == 0
    assert binding.unique_id() == bytes(range(ID_BYTES))
    assert binding.init(4, 2, bytes(ID_BYTES)) == "comm"
    for name, arguments in COLLECTIVES.items():
        getattr(binding, name)(*arguments)
    assert binding.shrink("comm", [1, 3]) == "comm"
    for name in ("finalize", "destroy", "abort"):
        getattr(binding, name)("comm")
    assert theirs.calls == [
        ("comm_init_rank_config", 4, 78, 2, 77),
        *((name, *arguments) for name, arguments in COLLECTIVES.items()),
        ("comm_shrink", "comm", [1, 3], 2, 0, 1),
        ("comm_finalize", "comm"),
        ("comm_destroy", "comm"),
        ("comm_abort", "comm"),
    ]


def test_nccl4py_says_how_the_communicator_is(theirs):
    binding = Nccl4py()
    assert binding.async_error("comm") == (Result.SUCCESS, "")
    theirs.state = 7
    assert binding.async_error("comm") == (Result.IN_PROGRESS, "")
    theirs.state = 6
    assert binding.async_error("comm") == (Result.REMOTE_ERROR, "socket closed")


def test_nccl4pys_errors_become_ours(theirs):
    def fail(*arguments):
        raise theirs.NCCLError(5)

    theirs.all_reduce = fail
    with pytest.raises(NcclError, match="all_reduce: status 5") as caught:
        Nccl4py().all_reduce(*COLLECTIVES["all_reduce"])
    assert caught.value.result is Result.INVALID_USAGE


def test_old_libraries_are_told_apart(theirs):
    theirs.version = 22605
    assert not Nccl4py().abilities.shrink
    theirs.version = 21304
    with pytest.raises(MissingDependency, match=r"2\.14 or newer.*2\.13\.4.*holdfast\[cuda13\]"):
        Nccl4py()


class Functions:
    """pynccl's `libnccl`: checks its arguments by its declared types, as ctypes does."""

    def __init__(self):
        self.calls = []
        self.status = 0

    def __getattr__(self, name):
        def call(*arguments):
            if name == "ncclGetVersion":
                arguments[0]._obj.value = 2708
            elif name == "ncclGetUniqueId":
                ctypes.memmove(arguments[0], b"i\0d" + b"x" * (ID_BYTES - 3), ID_BYTES)
            elif name == "ncclCommInitRank":
                handle, size, unique, rank = arguments
                handle._obj.value = 99
                self.calls.append((name, size, bytes(unique)[:3], rank))
            elif name == "ncclCommGetAsyncError":
                arguments[1]._obj.value = self.status
            else:
                self.calls.append((name, *arguments))

        return call


class UniqueIdOfPynccl(ctypes.Structure):
    _fields_ = [("internal", ctypes.c_char * 512)]


class NcclV2Error(Exception):
    def __init__(self, code):
        super().__init__(STATUS[code])


STATUS = {0: "ncclSuccess", 1: "ncclUnhandledCudaError", 5: "ncclInvalidUsage"}


@pytest.fixture
def functions(monkeypatch):
    made = Functions()
    module = types.ModuleType("pynccl.binding")
    module.libnccl = lambda: made
    module.ncclUniqueId = UniqueIdOfPynccl
    module.NcclV2Error = NcclV2Error
    module.STATUS = STATUS
    monkeypatch.setitem(sys.modules, "pynccl", types.ModuleType("pynccl"))
    monkeypatch.setitem(sys.modules, "pynccl.binding", module)
    return made


def test_pynccl_is_told_what_it_knows(functions):
    binding = PyNccl()
    assert binding.abilities == ((2, 7, 8), 2**31 - 1, True, False, False, False)
    unique = binding.unique_id()
    assert unique[:3] == b"i\0d"  # a NUL does not end it
    assert len(unique) == ID_BYTES
    handle = binding.init(4, 2, unique)
    assert handle.value == 99
    for name, arguments in COLLECTIVES.items():
        getattr(binding, name)(*arguments)
    binding.group_start()
    binding.group_end()
    binding.finalize("comm")
    binding.destroy("comm")
    binding.abort("comm")
    native = {name: "nccl" + name.title().replace("_", "") for name in COLLECTIVES}
    assert functions.calls == [
        ("ncclCommInitRank", 4, b"i\0d", 2),
        *((native[name], *arguments) for name, arguments in COLLECTIVES.items()),
        ("ncclGroupStart",),
        ("ncclGroupEnd",),
        ("ncclCommDestroy", "comm"),
        ("ncclCommAbort", "comm"),
    ]
    functions.status = 5
    assert binding.async_error("comm") == (Result.INVALID_USAGE, "")
    with pytest.raises(UsageError, match="no shrink"):
        binding.shrink("comm", [1])


@pytest.mark.parametrize(
    ("code", "result", "words"),
    [(5, Result.INVALID_USAGE, "ncclInvalidUsage"), (7, Result.INTERNAL_ERROR, "code 7")],
)
def test_pynccls_errors_become_ours(functions, code, result, words):
    def fail(*arguments):
        raise NcclV2Error(code)

    functions.ncclGroupEnd = fail
    with pytest.raises(NcclError, match=words) as caught:
        PyNccl().group_end()
    assert caught.value.result is result


def test_the_best_installed_binding_is_taken(theirs, functions, monkeypatch):
    monkeypatch.setattr(bindings, "_installed", lambda module: True)
    assert load_binding().name == "nccl4py"
    assert load_binding("pynccl").name == "pynccl"
    monkeypatch.setattr(bindings, "_installed", lambda module: module == "pynccl")
    assert load_binding().name == "pynccl"
    monkeypatch.setattr(bindings, "_installed", lambda module: False)
    with pytest.raises(MissingDependency, match=r"nccl4py.*holdfast\[cuda13\].*holdfast\[cuda12\]"):
        load_binding()
    with pytest.raises(UsageError, match="nccl4py, pynccl"):
        load_binding("rccl")


def test_what_cannot_be_loaded_says_what_to_install(monkeypatch):
    for name in ("nccl.bindings.nccl", "pynccl.binding"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match=r"pip install 'holdfast\[cuda13\]'"):
        load_binding("nccl4py")
    with pytest.raises(MissingDependency, match="NUMBA_NCCLLIB"):
        load_binding("pynccl")


@pytest.mark.parametrize("name", ["nccl4py", "pynccl"])
def test_the_library_itself_where_it_is_installed(name):
    """What needs no GPU: the version, a unique id, an empty group, an error."""
    try:
        binding = load_binding(name)
    except MissingDependency as error:
        pytest.skip(str(error))
    assert binding.abilities.version >= (2, 7)
    first, second = binding.unique_id(), binding.unique_id()
    assert len(first) == ID_BYTES
    assert first != second
    binding.group_start()
    binding.group_end()
    null = ctypes.c_void_p() if name == "pynccl" else binding._nccl.Comm()
    with pytest.raises(NcclError) as caught:
        binding.all_reduce(0, 0, 1, 7, 0, null, 0)
    assert caught.value.result is Result.INVALID_ARGUMENT
