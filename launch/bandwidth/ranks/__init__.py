"""The programs of the measured processes, started by path, each in its library's own Python.

`rank.py` holds the loop that times, `collectives.py` what there is to time; `ours.py`, `gloo.py`,
`mpi.py` and `raw.py` open one library each, plain sockets being one. But for `ours.py` and `raw.py`
they use the standard library, NumPy and the measured library alone, because Holdfast is not
installed where a peer is.
"""
