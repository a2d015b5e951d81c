"""The command line, `ddn`.

`commands/` has one file for each command: its options and what it does. Nothing there, in `main`, `options` or `config`
imports PyTorch before a command runs, so that `ddn --help` is quick. The other modules are what commands are made of.
"""
