"""What a user interface needs of an engine, whether it is a thread or a fake."""

from typing import Protocol

from qwen35_mlx.session.events import Event
from qwen35_mlx.session.requests import Request


class Engine(Protocol):
    """What a user interface needs of an engine. Only `close` blocks."""

    def start(self) -> None:
        """Begin to load the model: `Loading` events, then `Loaded` or `Failed`."""
        ...

    def submit(self, request: Request) -> None:
        """Queue a request. `session.requests` lists the events it ends in; a turn ends in `Done`,
        `Cancelled` or `Failed`."""
        ...

    def cancel(self) -> None:
        """Cancel all turns and loads queued so far. The running one stops within one chunk of the
        prompt or one token."""
        ...

    def poll(self) -> list[Event]:
        """The events since the last call, oldest first."""
        ...

    def close(self) -> None:
        """Cancel, and wait up to `mlx_thread.CLOSE_SECONDS` for the thread to end."""
        ...
