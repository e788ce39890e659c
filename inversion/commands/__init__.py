"""The commands of the command line: one file and one small frozen dataclass per command, its fields the options."""
