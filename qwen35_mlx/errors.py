"""The one error for bad input and for an environment that does not fit."""


class Qwen35Error(Exception):
    """Bad input or a bad environment; one line that names the cause and the next step.

    Commands print the message and exit with code 2. A traceback is a bug in this project.
    """
