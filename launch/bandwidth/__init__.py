"""Measure all-reduce: ours and the other libraries', alternately, by one loop and one protocol.

It starts the ranks of every library once, lets one library at a time measure, and turns times into
bandwidths, tables, JSON and a plot. It never adds an array itself and knows no library but by the
programs in `ranks/`. Start reading at `ranks/rank.py` (what a measured process does), then
`controller.py` (who tells it to) and `comparison.py` (in which order).
"""
