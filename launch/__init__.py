"""Start workers on machines: the command, the Ray launcher, the node agents, the logs.

The room places processes and watches them; it never touches a gradient. Start reading at
`cli.py` (the commands), then `spec.py` (what a job is), then `ray_launcher.py`.
"""
