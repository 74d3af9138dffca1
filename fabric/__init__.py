"""The network as a thing one can build and break.

The room is how links are broken on purpose, in tests and drills. It never trains. Start reading at
`relay.py`: a relay between two hosts that can stall or reset what passes through it.
"""
