"""Data-parallel training in which a fault of the network is not a fault of the job.

    import holdfast as hf
    from holdfast import nn, optim

`init` joins a job (or makes one of one worker); `nn`, `optim`, `Tensor` and the functions of
tensors (`hf.zeros`, `hf.cat`, `hf.einsum` …) are the autodiff engine, with PyTorch's names;
`datasets` are the data that Holdfast can fetch. The rooms are `holdfast.core`, `collectives`,
`fabric`, `runtime` and `launch`; `holdfast --help` is the command.
"""

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast import amp, autograd, cuda, func, graph, nn, optim
    from holdfast.core import *
    from holdfast.core import dtypes
    from holdfast.core.dtypes import bfloat16, float16, float32, float64, int32, int64, uint8
    from holdfast.core.plan import Plan, trace
    from holdfast.runtime import datasets
    from holdfast.runtime.job import Job, init
    from holdfast.runtime.plans import load_plan, save_plan
    from holdfast.runtime.weights import load, save
    from holdfast.runtime.worker import WorkerSpec

__version__ = "0.1.0"

# Looked up when first asked for: `holdfast --help` need not load NumPy, nor a worker Ray.
_HOMES = {
    "Job": "holdfast.runtime.job",
    "Plan": "holdfast.core.plan",
    "WorkerSpec": "holdfast.runtime.worker",
    "init": "holdfast.runtime.job",
    "load": "holdfast.runtime.weights",
    "load_plan": "holdfast.runtime.plans",
    "save": "holdfast.runtime.weights",
    "save_plan": "holdfast.runtime.plans",
    "trace": "holdfast.core.plan",
}
_MODULES = {
    "amp": "holdfast.amp",
    "autograd": "holdfast.autograd",
    "cuda": "holdfast.cuda",
    "datasets": "holdfast.runtime.datasets",
    "func": "holdfast.func",
    "graph": "holdfast.graph",
    "nn": "holdfast.nn",
    "optim": "holdfast.optim",
}

__all__ = [
    "HoldfastError",
    "Job",
    "Plan",
    "WorkerSpec",
    "amp",
    "autograd",
    "bfloat16",
    "cuda",
    "datasets",
    "dtypes",
    "float16",
    "float32",
    "float64",
    "func",
    "graph",
    "init",
    "int32",
    "int64",
    "load",
    "load_plan",
    "nn",
    "optim",
    "save",
    "save_plan",
    "trace",
    "uint8",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    # `from holdfast import exec` asks here before it looks for a module of that name.
    if not name.startswith("_") and find_spec(f"holdfast.{name}") is None:
        core = importlib.import_module("holdfast.core")
        if name in core.__all__:
            return getattr(core, name)
        dtypes = importlib.import_module("holdfast.core.dtypes")
        if name in dtypes.__all__:
            return getattr(dtypes, name)
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    core = importlib.import_module("holdfast.core")
    return sorted({"__version__", *__all__, *core.__all__})
