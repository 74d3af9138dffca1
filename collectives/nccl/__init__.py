"""Arrays of GPUs, over NCCL; start at `state.py`."""
