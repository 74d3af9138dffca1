"""A network of the kernel's namespaces and veth pairs; start at `engine.py`."""
