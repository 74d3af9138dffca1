"""Data-parallel training in which a fault of the network is not a fault of the job.

    import holdfast as hf
    from holdfast import nn, optim

`init` joins a job (or makes one of one worker); `nn`, `optim` and `Tensor` are the autodiff
engine, with PyTorch's names; `datasets` are the data that Holdfast can fetch. The rooms are
`holdfast.core`, `collectives`, `fabric`, `runtime` and `launch`; `holdfast --help` is the command.
"""

import importlib
from typing import TYPE_CHECKING, Any

from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast import nn, optim
    from holdfast.core import Tensor, manual_seed, no_grad
    from holdfast.core.creation import tensor
    from holdfast.runtime import datasets
    from holdfast.runtime.job import Job, init
    from holdfast.runtime.worker import WorkerSpec

__version__ = "0.1.0"

__all__ = [
    "HoldfastError",
    "Job",
    "Tensor",
    "WorkerSpec",
    "datasets",
    "init",
    "manual_seed",
    "nn",
    "no_grad",
    "optim",
    "tensor",
]

# Looked up when first asked for: `holdfast --help` need not load NumPy, nor a worker Ray.
_HOMES = {
    "Job": "holdfast.runtime.job",
    "Tensor": "holdfast.core",
    "WorkerSpec": "holdfast.runtime.worker",
    "init": "holdfast.runtime.job",
    "manual_seed": "holdfast.core",
    "no_grad": "holdfast.core",
    "tensor": "holdfast.core.creation",
}
_MODULES = {
    "datasets": "holdfast.runtime.datasets",
    "nn": "holdfast.nn",
    "optim": "holdfast.optim",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
