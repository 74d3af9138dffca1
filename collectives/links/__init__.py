"""Links over TCP, which outlive their connections; start at `link.py`."""
