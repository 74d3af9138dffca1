"""Between the ranks of one host: memory that all of them read and write; start at `memory.py`."""
