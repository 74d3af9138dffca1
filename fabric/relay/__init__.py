"""A network without privileges: loopback addresses joined by a relay; start at `engine.py`."""
