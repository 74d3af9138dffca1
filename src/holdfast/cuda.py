"""The GPU that this worker sees, as torch.cuda tells of it: without CuPy there is none."""

from holdfast.core.backend import backend, choose_device
from holdfast.core.random import manual_seed

__all__ = ["device_count", "is_available", "manual_seed", "manual_seed_all", "synchronize"]

manual_seed_all = manual_seed


def is_available() -> bool:
    """Return whether "cuda" is a device here: CuPy is installed, and sees a GPU."""
    return choose_device("auto") == "cuda"


def device_count() -> int:
    """Return how many GPUs this process sees; a worker computes on number 0."""
    return int(backend("cuda").cuda.runtime.getDeviceCount()) if is_available() else 0


def synchronize() -> None:
    """Return when the GPU has done all that it was asked for; raises MissingDependency without."""
    backend("cuda").cuda.Device().synchronize()
