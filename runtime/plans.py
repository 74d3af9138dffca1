"""An inference plan in a file: structure and weights together, in the safetensors format.

The structure is JSON in the file's metadata, so that the weights can be read by any library.
"""

import json
from os import PathLike

from safetensors import SafetensorError, safe_open

from holdfast.core.plan import Plan
from holdfast.core.plan.encoding import decoded, encoded
from holdfast.errors import CheckpointCorrupt, CheckpointError
from holdfast.runtime.files import OS_FILES, Files
from holdfast.runtime.weights import load, save

ENTRY = "holdfast.plan"


def save_plan(plan: Plan, path: str | PathLike[str], *, files: Files = OS_FILES) -> None:
    """Write `plan` to one file, which is whole on the disk on return.

    Raises UsageError for an option that cannot be saved, CheckpointError if the disk refuses; a
    file at `path` is untouched then.
    """
    structure, arrays = encoded(plan.program)
    told = json.dumps({"single": plan.single, **structure})
    save(arrays, path, metadata={ENTRY: told}, files=files)


def load_plan(path: str | PathLike[str]) -> Plan:
    """Return the plan that `save_plan` wrote to `path`; the model's code is not needed.

    Raises CheckpointError if it cannot be read, CheckpointCorrupt if it is no whole plan, and
    CheckpointMismatch if it is of another version of Holdfast.
    """
    arrays = {name: tensor.array for name, tensor in load(path).items()}
    try:
        with safe_open(path, framework="numpy") as file:
            told = (file.metadata() or {}).get(ENTRY)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} could not be read: {error}") from error
    if told is None:
        raise CheckpointCorrupt(
            f"{path} holds weights and no plan: write plans with holdfast.save_plan"
        )
    structure = json.loads(told)
    return Plan(decoded(structure, arrays), single=structure["single"])
