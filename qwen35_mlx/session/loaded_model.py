"""The model of an engine: found, loaded in place of another one, and freed."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.blas import load_openblas
from qwen35_mlx.session.events import Loading, ProcessesJoined
from qwen35_mlx.session.mlx_thread import CLOSE_SECONDS
from qwen35_mlx.session.requests import UseModel

if TYPE_CHECKING:
    from qwen35_mlx.distributed.place import Place
    from qwen35_mlx.distributed.processes import Processes
    from qwen35_mlx.library.library import Library
    from qwen35_mlx.session.model import Model


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How an engine loads its models.

    Attributes:
        budget: bytes of model states on disk; None for the default.
        context, kv_bits, mtp: as for `qwen35_mlx.load`.
        adapter_path: likewise, of the first model alone.
        place: of this process, the first of several that run the model together; None for one.
    """

    budget: int | None = None
    context: int | None = None
    kv_bits: int | None = None
    mtp: str | int = "auto"
    adapter_path: str | None = None
    place: "Place | None" = None


class LoadedModel:
    """At most one model, which belongs to the thread of its engine.

    Args:
        options: of every load.
        first: the model that the adapter is for; None for the first that is loaded.
        library: its folder holds the states of models; None for memory only.
        report: called with `Loading` events. What it raises ends the load.
        notice: called with lines for the user, in any thread.
        lost: called in a thread of its own if another process is lost that runs the model.

    Attributes:
        model: None before `load` and after `unload`.
        joined: the processes that run models; None for one, and before the first load.
        fits: whether the model that was loaded last fits into this machine alone.
        wanted: the newest request for a model, also after `unload`; at first `first`.
    """

    def __init__(
        self,
        options: LoadOptions,
        first: UseModel | None,
        library: "Library | None",
        report: Callable[[Loading], None],
        notice: Callable[[str], None],
        lost: Callable[[str], None] = lambda line: None,
    ):
        self._options = options
        self._adapted = first and first.model
        self._library = library
        self._report = report
        self._notice = notice
        self._lost = lost
        self._processes: Processes | None = None
        self._join_error = ""
        self.fits = False
        self.joined: ProcessesJoined | None = None
        self.model: Model | None = None
        self.wanted = first

    def find(self, request: UseModel) -> None:
        """Download what is missing. The loaded model stays if the new one is not found.

        Raises:
            Qwen35Error: it is not found, or MLX does not start.
        """
        self._report(Loading(request.model))
        check_mlx()
        from qwen35_mlx.checkpoint.hub import resolve_checkpoint

        resolve_checkpoint(request.model, revision=request.revision, progress=self._progress)

    def load(self, request: UseModel) -> "Model":
        """Load what `find` has found, in place of the loaded model."""
        from qwen35_mlx.session.load import load
        from qwen35_mlx.session.memory import fits_alone

        self.unload()
        self.wanted = request
        self._adapted = self._adapted or request.model
        options = self._options
        model = load(
            request.model,
            revision=request.revision,
            context=options.context,
            kv_bits=options.kv_bits,
            mtp=options.mtp,
            adapter_path=options.adapter_path if request.model == self._adapted else None,
            progress=self._progress,
            notice=self._notice,
            processes=self.join(),
        )
        self.fits = fits_alone(model.whole_bytes)
        if self._library is not None:
            model.open_states(self._library.folder, budget=options.budget, notice=self._notice)
        self.model = model
        return model

    def join(self) -> "Processes | None":
        """The processes that run the model together, joined once; None for this one alone.

        Raises:
            Qwen35Error: MLX does not start, or they do not find or do not fit each other.
        """
        place = self._options.place
        if place is None or self._processes is not None:
            return self._processes
        check_mlx()
        from qwen35_mlx.distributed.processes import Processes

        # The others have ended after an error: they cannot be joined again.
        if self._join_error:
            raise Qwen35Error(self._join_error)
        try:
            self._processes = Processes.join(place, self._notice, self._lost)
        except Qwen35Error as error:
            self._join_error = str(error)
            raise
        self._notice(self._processes.speed)
        ranks, memory = self._processes.ranks, self._processes.memory
        self.joined = ProcessesJoined(ranks, memory, place.pipeline)
        return self._processes

    def give_up_stalled(self) -> None:
        """Lose the other processes if they make no progress. In any thread."""
        if self._processes is not None:
            self._processes.followers.give_up_stalled()

    def close(self) -> None:
        """Free the model's memory, and end the other processes."""
        self.unload()
        if self._processes is not None:
            self._processes.close()

    def unload(self) -> None:
        """Free the model's memory. Chats with it must be closed before."""
        model, self.model = self.model, None
        if model is None:
            return
        import mlx.core as mx

        for states in model.states.values():
            states.close(CLOSE_SECONDS)
        del model
        gc.unfreeze()  # an application may have frozen the collector while the model was loaded
        gc.collect()
        mx.clear_cache()
        if self._processes is not None:
            self._processes.forget_dropped()

    def _progress(self, done: int, total: int, what: str) -> None:
        self._report(Loading(what, done / total if total else None))


def check_mlx() -> None:
    """Import MLX, before what needs it, and before that a faster BLAS for it.

    Raises:
        Qwen35Error: it does not start.
    """
    load_openblas()
    try:
        import mlx.core  # noqa: F401
    except ImportError as error:
        raise Qwen35Error(
            f"MLX does not start ({error}): on Linux, install the extra for your machine, "
            "qwen35-mlx[cpu] or qwen35-mlx[cuda]"
        ) from None
