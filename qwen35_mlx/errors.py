"""The error every bad input ends in."""


class Qwen35Error(Exception):
    """Bad input or a bad environment, told in one line that names the thing and the next step.

    Commands print the message and exit with code 2; a traceback means a bug in this project.
    """
