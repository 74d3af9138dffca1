"""The network as a thing one can build and break.

The room is how links are broken on purpose, in tests and drills, and never trains. Start reading
at `faults.py` (what can be done, as data) and `network.py` (the words for it); then at one of the
three kinds of network: relays in user space (`relay/`), the kernel's own namespaces (`kernel/`), or
a simulation with a virtual clock (`simulated/`).
"""

from holdfast.fabric.build import FABRICS, build
from holdfast.fabric.faults import KINDS, Fault
from holdfast.fabric.network import Handle, Network
from holdfast.fabric.script import (
    Entry,
    Script,
    When,
    corrupt,
    disk_full,
    disk_slow,
    down,
    draw,
    drop,
    flap,
    kill,
    latency,
    load_script,
    loss,
    partition,
    pause,
    rate,
    reorder,
    reset,
)
from holdfast.fabric.topology import (
    Topology,
    fat_tree,
    leaf_spine,
    load_topology,
    star,
    two_rails,
)

__all__ = [
    "FABRICS",
    "KINDS",
    "Entry",
    "Fault",
    "Handle",
    "Network",
    "Script",
    "Topology",
    "When",
    "build",
    "corrupt",
    "disk_full",
    "disk_slow",
    "down",
    "draw",
    "drop",
    "fat_tree",
    "flap",
    "kill",
    "latency",
    "leaf_spine",
    "load_script",
    "load_topology",
    "loss",
    "partition",
    "pause",
    "rate",
    "reorder",
    "reset",
    "star",
    "two_rails",
]
