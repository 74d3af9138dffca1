"""A training job: the data-parallel step, data order, checkpoints, metrics.

The room joins core's gradients to collectives' sums. It never starts a process and never knows
what placed it. Start reading at `job.py`.
"""
