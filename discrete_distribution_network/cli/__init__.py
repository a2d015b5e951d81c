"""The command `ddn`. Nothing here is imported before a command is known, so that `ddn --help` is quick."""
