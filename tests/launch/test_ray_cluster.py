"""What a job asks of its nodes, without starting any."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.launch.ray_cluster import Machine, Share, share
from holdfast.launch.spec import LaunchSpec

CPU_NODE = Machine("1", "a", "10.0.0.1", cpus=4, gpus=0)
GPU_NODE = Machine("2", "b", "10.0.0.2", cpus=8, gpus=2)


def spec(**changes: Any) -> LaunchSpec:
    return replace(LaunchSpec(Path("t.py"), Path("/r"), "r", address="a:1"), **changes)


def test_cuda_needs_a_gpu_for_each_worker():
    wanted, device = share(spec(device="cuda", nproc_per_node=4), [CPU_NODE, GPU_NODE], cupy=True)
    assert (wanted, device) == (Share(1, 4, 4), "cuda")
    assert wanted.shortage([CPU_NODE, GPU_NODE]) == (
        "asked for a node with 4 CPUs and 4 GPUs (one per worker), but there is: "
        "a with 4 CPUs, 0 GPUs; b with 8 CPUs, 2 GPUs"
    )


def test_auto_is_cuda_where_everything_for_it_is_there():
    asked = spec(nproc_per_node=2)
    assert share(asked, [GPU_NODE], cupy=True)[1] == "cuda"
    assert share(asked, [GPU_NODE], cupy=False)[1] == "cpu"
    assert share(asked, [CPU_NODE], cupy=True)[1] == "cpu"
    assert share(spec(nproc_per_node=2, nnodes=2), [CPU_NODE, GPU_NODE], cupy=True)[1] == "cpu"


def test_a_transport_of_gpus_takes_them_whatever_the_workers_compute_on():
    for device, expected in (("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")):
        asked = spec(transport="nccl", device=device, nproc_per_node=2)
        assert share(asked, [GPU_NODE], cupy=True) == (Share(1, 2, 2), expected)


def test_too_few_nodes_are_told_with_those_there_are():
    wanted, _ = share(spec(nproc_per_node=4, nnodes=3), [CPU_NODE, GPU_NODE], cupy=False)
    assert "asked for 3 nodes with 4 CPUs each" in (wanted.shortage([CPU_NODE, GPU_NODE]) or "")
    assert "there is: no node" in (wanted.shortage([]) or "")
    assert Share(2, 4, 0).shortage([CPU_NODE, GPU_NODE]) is None
