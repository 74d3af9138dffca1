"""Measure collectives, links and networks: ours and the other libraries', alternately, by one loop.

For a comparison it starts the ranks of every library once, lets one library at a time measure, and
turns times into bandwidths, tables, JSON and a plot; it knows no library but by the programs in
`ranks/`. Start reading at `ranks/collectives.py` (what is measured, as data) and `ranks/rank.py`
(what a measured process does), then `controller.py` (who tells it to) and `comparison.py` (in which
order). `link.py`, `matrix.py` and `tune.py` are programs that every rank runs (`together.py`);
`wire.py` is the limit beside them, `two_hosts.py` and `recovery.py` are for
`benchmarks/network.py`.
"""
