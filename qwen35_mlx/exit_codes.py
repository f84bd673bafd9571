"""Exit codes of all commands; those from 128 on are what a shell reports for a signal."""

BAD_INPUT = 2
CRASHED = 70  # EX_SOFTWARE: a fault of the program
CLOSED = 128 + 1  # SIGHUP, which `signal` lacks on Windows
INTERRUPTED = 128 + 2  # SIGINT
BROKEN_PIPE = 128 + 13  # SIGPIPE
