"""Peak memory of training, ours and PyTorch's: a process for each, seen from outside.

    python benchmarks/step_memory.py [--models gpt] [--steps 20] [--json FILE]

A process loads its library, makes the model and takes some steps, on one thread. Figures are MiB of
its peak (VmHWM of /proc/self/status): of the whole process, which is what a machine needs, and
beyond what loading the library took. This Python needs PyTorch: pip install torch.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workloads import (
    WORKLOADS,
    Workload,
    chosen,
    load_holdfast,
    load_torch,
    require_torch,
    rows,
    samples,
    training_step,
    use_one_thread,
)

from holdfast.errors import HoldfastError, LaunchError, UsageError

MIB = 1024 * 1024
LIBRARIES = {"ours": load_holdfast, "torch": load_torch}


def peak() -> int:
    """Return the most bytes that this process has had in memory."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def measure_here(library_name: str, model_name: str, steps: int, folder: Path) -> dict[str, int]:
    """Train in this process; return its peak with the library loaded, and in the end."""
    import numpy as np

    library, workload = LIBRARIES[library_name](), WORKLOADS[model_name]
    inputs, targets = (np.load(folder / f"{name}.npy") for name in ("inputs", "targets"))
    loaded = peak()
    model = workload.model(library.nn, library.functional)
    optimizer = workload.make_optimizer(library, model.parameters())
    step = training_step(library, model, optimizer, workload.batches(library, inputs, targets))
    for _ in range(steps):
        step()
    return {"loaded": loaded, "peak": peak()}


def measure(workload: Workload, steps: int, folder: Path) -> dict[str, Any]:
    """Let a process of each library train; return what they took."""
    found: dict[str, dict[str, int]] = {}
    for library in LIBRARIES:
        child = [__file__, "--child", library, workload.name, str(steps), str(folder)]
        done = subprocess.run([sys.executable, *child], capture_output=True, text=True, check=False)
        if done.returncode:
            raise LaunchError(f"{workload.name}, {library}: the process failed:\n{done.stderr}")
        found[library] = json.loads(done.stdout)
    return summary(workload.name, found["ours"], found["torch"])


def summary(model: str, ours: Mapping[str, int], torch: Mapping[str, int]) -> dict[str, Any]:
    """Return MiB of what both processes took, and the ratios (below 1: less)."""
    mine, theirs = (each["peak"] - each["loaded"] for each in (ours, torch))
    return {
        "model": model,
        "ours": ours["peak"] / MIB,
        "torch": torch["peak"] / MIB,
        "ratio": ours["peak"] / torch["peak"],
        "ours_beyond": mine / MIB,
        "torch_beyond": theirs / MIB,
        "beyond_ratio": mine / theirs,
    }


def run(workloads: Sequence[Workload], steps: int) -> list[dict[str, Any]]:
    """Measure all workloads."""
    import numpy as np

    require_torch()
    results = []
    for workload in workloads:
        with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as scratch:
            arrays = samples(workload.data)
            for name, array in zip(("inputs", "targets"), arrays, strict=True):
                # As many as are used once: batches that lie about would count for both alike.
                np.save(Path(scratch) / f"{name}.npy", array[: 4 * workload.batch])
            results.append(measure(workload, steps, Path(scratch)))
    return results


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as text."""
    columns = (
        ("ours", 10, ".1f"),
        ("torch", 10, ".1f"),
        ("ratio", 8, ".2f"),
        ("ours_beyond", 13, ".1f"),
        ("torch_beyond", 14, ".1f"),
        ("beyond_ratio", 14, ".2f"),
    )
    return "# peak of the process in MiB, and beyond the peak with the library loaded\n" + rows(
        columns, results
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="gpt", help=", ".join(WORKLOADS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        library, model, steps, folder = options.child
        print(json.dumps(measure_here(library, model, int(steps), Path(folder))))
        return 0
    try:
        workloads = chosen(options.models)
        if options.steps < 1:
            raise UsageError(f"--steps: at least 1 was expected, {options.steps} was given")
        results = run(workloads, options.steps)
    except HoldfastError as error:
        print(f"holdfast: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps({"results": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    use_one_thread()
    sys.exit(main())
