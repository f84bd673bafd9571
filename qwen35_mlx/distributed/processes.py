"""Joins the processes that run a network together, and compares them before they begin."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import mlx.core as mx

from qwen35_mlx.checkpoint.opening import ModelNames
from qwen35_mlx.distributed.follower import Follower
from qwen35_mlx.distributed.leader import Handle, LeadingNetwork
from qwen35_mlx.distributed.link import Followers, Leader, Listener, this_host
from qwen35_mlx.distributed.measuring import measure
from qwen35_mlx.distributed.place import Place
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line
from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.parallel import Parallel


class Processes:
    """All processes, as the first one holds them: the others wait for its commands.

    Attributes:
        parallel: for the network of this process.
        ranks: their number.
        memory: bytes of all machines together, of which a model has equal parts: the smallest
            counts for each.
        speed: a line for the user about the connection between them.
    """

    def __init__(self, parallel: Parallel, followers: Followers, memory: int, speed: str):
        self.parallel, self.followers = parallel, followers
        self.ranks = followers.count + 1
        self.memory, self.speed = memory, speed

    @classmethod
    def join(
        cls,
        place: Place,
        notice: Callable[[str], None],
        lost: Callable[[str], None] = lambda line: None,
    ) -> "Processes":
        """Join the others as the first process. MLX holds Python's lock until all are there.

        Args:
            notice: called with lines for the user, in any thread.
            lost: called in a thread of its own if one is lost, with a line about that.

        Raises:
            Qwen35Error: one does not come, or does not fit to the others.
        """
        if place.pipeline and place.backend == "nccl":
            raise Qwen35Error(
                "over NCCL no process sends to the next alone, as a pipeline must: leave out "
                "--parallel pipeline"
            )
        parallel = _join(place)
        listener = Listener(place.address)
        about = {"port": listener.port, "token": listener.token, "pipeline": place.pipeline}
        parallel.exchange(json.dumps(about))
        parallel = replace(parallel, pipeline=place.pipeline)
        assert parallel.shard is not None
        own, connections, abouts = _about(place), [], []
        for connection, about in listener.accept(parallel.shard.ranks):
            connections.append(connection)
            abouts.append(about)
        names = [f"rank {about['rank']} ({about['host']})" for about in abouts]
        followers = Followers(connections, names, notice, lost)
        try:
            for name, about in zip(names, abouts, strict=True):
                for key, what in (("version", "qwen35-mlx"), ("mlx", "MLX")):
                    _same(what, name, about[key], own[key], "install the same on all machines")
            followers.send("measure")
        except Qwen35Error:
            followers.close()
            raise
        memory = min(about["memory"] for about in (own, *abouts)) * parallel.shard.ranks
        return cls(parallel, followers, memory, measure(parallel))

    def open(self, names: ModelNames, weights: str) -> None:
        """Open the same files everywhere.

        Args:
            weights: a hash of them, from `of_checkpoint`.

        Raises:
            Qwen35Error: one of the others does not find them, or finds different ones.
        """
        for rank, reply in enumerate(self.followers.ask("open", names=asdict(names)), 1):
            name = self.followers.names[rank - 1]
            _same("the model", name, reply["weights"], weights, "copy its files to all machines")

    def load(self, norms: frozenset[str] | None, options: Mapping[str, Any]) -> Handle:
        """Begin to load the network in the others; `network` waits for them.

        Args:
            norms: of the MTP head that hold w; None if that is not known yet.
            options: keyword arguments of `load_network`.
        """
        raw = None if norms is None else sorted(norms)
        handle = Handle(self.followers)
        self.followers.send("load", network=handle.number, norms=raw, options=dict(options))
        return handle

    def network(self, own: Network, others: Handle) -> LeadingNetwork:
        """The network of all processes, once it is loaded everywhere.

        Args:
            own: the part of this process.
            others: from `load`.
        """
        self.followers.ask("wait")
        return LeadingNetwork(own, self.followers, others)

    def forget_dropped(self) -> None:
        """Let the others free what is not used here any more."""
        with suppress(Qwen35Error):
            self.followers.send("drop", objects=[])

    def close(self) -> None:
        """End the other processes."""
        self.followers.close()


def follow(place: Place, joined: Callable[[], object] = lambda: None) -> None:
    """Follow the first process until it ends; then this one ends at once.

    Args:
        joined: called once all processes are there.

    Raises:
        Qwen35Error: it cannot be reached.
    """
    parallel = _join(place)
    joined()
    where = json.loads(parallel.exchange("")[0])
    parallel = replace(parallel, pipeline=where["pipeline"])
    leader = Leader.connect(
        place.address, where["port"], where["token"], _about(place), lambda: os._exit(0)
    )
    try:
        Follower(leader, parallel).run()
    except BaseException as error:
        leader.fail(one_line(error))
        raise


def _join(place: Place) -> Parallel:
    gpu_kernel.disable_tf32()
    try:
        return Parallel(mx.distributed.init(strict=True, backend=place.backend))
    except (RuntimeError, ValueError) as error:
        reason, _, _ = str(error).partition("\n")
        raise Qwen35Error(
            f"the processes do not find each other ({reason}): see whether all machines reach the "
            "addresses in the list of hosts"
        ) from None


def _about(place: Place) -> dict[str, Any]:
    """How a process introduces itself."""
    version = sys.modules["qwen35_mlx"].__version__
    return {
        "rank": place.rank,
        "host": this_host(),
        "version": version,
        "mlx": mx.__version__,  # type: ignore[attr-defined]
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    }


def _same(what: str, name: str, theirs: object, own: object, advice: str) -> None:
    if theirs != own:
        raise Qwen35Error(f"{name} has {what} {theirs}, and rank 0 has {own}: {advice}")
