"""Over MPI: our schedules on its messages, or its own collectives; start at `group.py`."""
