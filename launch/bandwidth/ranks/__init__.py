"""The programs of the measured processes, started by path, each in its library's own Python.

`rank.py` holds the loop that times; `ours.py`, `gloo.py` and `mpi.py` open one library each. But
for `ours.py` they use the standard library, NumPy and the measured library alone, because Holdfast
is not installed where a peer is.
"""
