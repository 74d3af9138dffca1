"""`python -m holdfast` is the command `holdfast`."""

from holdfast.launch.cli import main

main()
