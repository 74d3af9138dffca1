"""Every error that Holdfast raises on purpose.

```
HoldfastError
├── UsageError              yours: an option, argument or file that cannot be used (exit status 2)
├── MissingDependency       a part that is not installed; the message says how to get it
├── DataError               a data set's file is missing, truncated, corrupt or another file
├── CheckpointError         a checkpoint cannot be used
│   ├── CheckpointCorrupt   its bytes are not those that were written
│   └── CheckpointMismatch  it is whole, but of another model or optimizer; also a RuntimeError
├── UnsupportedFault    this kind of network cannot break in that way; also a UsageError
├── GradientError           backward was asked for what the graph cannot give; also a RuntimeError
├── ShapeError              arrays do not fit together; also a ValueError, as NumPy's are, and a
│                           RuntimeError, as PyTorch's
├── AnomalyError            a primitive made a NaN (hf.detect_anomaly); also an ArithmeticError
├── CommunicationError      the ranks cannot go on together; carries rank, peer and operation
│   ├── RendezvousError     the ranks did not find each other: a port in use, a rank that never came
│   ├── AuthenticationError a peer does not hold this job's token
│   ├── ProtocolError       a peer sent what the protocol forbids
│   ├── CollectiveMismatch  ranks called different collectives, or with different arrays
│   ├── DeadlineExceeded    nothing moved for longer than the deadline
│   └── PeerLost            a peer's process has ended
├── FabricError             a network for tests cannot be built here: no root, a missing tool
└── LaunchError             the job could not be started
    └── WorkerFailed        a worker ended with an error; carries its rank and exit status
```

Messages say what was expected, what was found and what to do.
"""


class HoldfastError(Exception):
    """Base of every error that Holdfast raises on purpose."""


class UsageError(HoldfastError):
    """An option, an argument or a file cannot be used as given; exit status 2."""


class UnsupportedFault(UsageError):
    """A network of this kind has no means for that kind of fault."""


class MissingDependency(HoldfastError):
    """A part that is not installed is needed; the message says how to get it."""


class DataError(HoldfastError):
    """A data set's file is missing, truncated, corrupt or not what its name says."""


class CheckpointError(HoldfastError):
    """A checkpoint cannot be used."""


class CheckpointCorrupt(CheckpointError):
    """The bytes of a checkpoint are not those that were written."""


class CheckpointMismatch(CheckpointError, RuntimeError):
    """A whole checkpoint belongs to another model or optimizer."""


class GradientError(HoldfastError, RuntimeError):
    """Backward was asked for what the graph cannot give."""


class ShapeError(HoldfastError, ValueError, RuntimeError):
    """Shapes do not fit; the message names the primitive, its arguments and their shapes."""


class AnomalyError(HoldfastError, ArithmeticError):
    """A primitive made a NaN; the message names it and what it was called with."""


class CommunicationError(HoldfastError):
    """The ranks cannot go on together."""


class RendezvousError(CommunicationError):
    """The ranks did not find each other."""


class AuthenticationError(CommunicationError):
    """A peer does not hold this job's token."""


class ProtocolError(CommunicationError):
    """A peer sent what the protocol forbids."""


class CollectiveMismatch(CommunicationError):
    """Ranks called different collectives, or the same one with different arrays."""


class DeadlineExceeded(CommunicationError):
    """Nothing moved for longer than the deadline."""


class PeerLost(CommunicationError):
    """A peer's process has ended."""


class FabricError(HoldfastError):
    """A network for tests and drills cannot be built or changed on this machine."""


class LaunchError(HoldfastError):
    """The job could not be started."""


class WorkerFailed(LaunchError):
    """A worker ended with an error.

    `rank` is the first rank that failed, `exit_status` its status (128 + n if signal n ended it).
    """

    def __init__(self, message: str, *, rank: int, exit_status: int) -> None:
        super().__init__(message)
        self.rank = rank
        self.exit_status = exit_status
