"""One file per sub-command: read the options, make the frozen spec, hand it on."""
