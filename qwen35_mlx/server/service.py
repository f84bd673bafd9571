"""What the endpoints share: the engine, the names of the model, the requests in progress."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Protocol

from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.server.errors import ApiError
from qwen35_mlx.server.options import ServerOptions
from qwen35_mlx.session.events import Event
from qwen35_mlx.session.reply_requests import EngineStatus, ReplyRequest

# Each holds a connection and its prompt in memory.
MAX_OPEN = 256


class Ticket(Protocol):
    """A request that was submitted."""

    def cancel(self) -> None: ...


class ReplyEngine(Protocol):
    """What the server needs of a `RequestEngine`."""

    def submit(self, request: ReplyRequest, deliver: Callable[[Event], None]) -> Ticket: ...

    def count(self, request: ReplyRequest, deliver: Callable[[Event], None]) -> Ticket: ...

    def status(self) -> EngineStatus: ...


Submit = Callable[[ReplyRequest, Callable[[Event], None]], Ticket]


@dataclass(slots=True)
class Service:
    """A running server. All but the engine belongs to the event loop.

    Attributes:
        started: seconds since 1970.
        closing: whether it takes no more requests.
    """

    engine: ReplyEngine
    options: ServerOptions
    started: int
    closing: bool = False
    _open: int = 0
    _tickets: list[Ticket] = field(default_factory=list)

    def check_model(self, name: str | None) -> None:
        """Refuse a name that is not the model's. A request loads and downloads no other model.

        Raises:
            ApiError: there is no model of this name.
        """
        options = self.options
        if name in (None, "", "default", options.name):
            return
        if any(fnmatchcase(name, alias) for alias in options.aliases):
            return
        raise ApiError(
            f"there is no model {shown(name)}: name {options.name}, or start the server with "
            "--alias",
            404,
            code="model_not_found",
            param="model",
        )

    @contextmanager
    def submitted(
        self, submit: Submit, request: ReplyRequest, client: str, deliver: Callable[[Event], None]
    ) -> Iterator[None]:
        """A request in progress, which is cancelled at the end of the block if it is not over.

        Raises:
            ApiError: the server is closing, or has too many requests.
        """
        if self.closing:
            raise ApiError("the server is closing: start it again", 503)
        if self._open >= MAX_OPEN:
            raise ApiError(f"the server has {MAX_OPEN} requests already: try again later", 429)
        self._open += 1
        try:
            ticket = self._submit(submit, replace(request, client=client), deliver)
            self._tickets.append(ticket)
            try:
                yield
            finally:
                self._tickets.remove(ticket)
                ticket.cancel()
        finally:
            self._open -= 1

    @staticmethod
    def _submit(submit: Submit, request: ReplyRequest, deliver: Callable[[Event], None]) -> Ticket:
        try:
            return submit(request, deliver)
        except Qwen35Error as error:  # the engine is closed
            raise ApiError(str(error), 503) from None

    def cancel_all(self) -> None:
        """Cancel all requests in progress. Each gets an error that says so."""
        for ticket in list(self._tickets):
            ticket.cancel()
