"""What a process does that follows the first one: the same calls, on its part of the network."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import ModelNames
from qwen35_mlx.distributed.commands import Leader
from qwen35_mlx.distributed.frames import Message
from qwen35_mlx.distributed.measuring import measure
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.home import RANK_STATES, home
from qwen35_mlx.model.cache import Cache, HeadState, Snapshot
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.parallel import Parallel
from qwen35_mlx.model.stack import Stack
from qwen35_mlx.prompt_cache import prefix_tree
from qwen35_mlx.prompt_cache.disk import DiskSnapshotCache
from qwen35_mlx.prompt_cache.fingerprint import of_checkpoint, of_part


class Follower:
    """A process that follows.

    Commands name objects by numbers, and their fields are the arguments of the call of the same
    name of `leader`. Nothing is waited for: what a call computes is evaluated while the next
    command is on its way.
    """

    def __init__(self, leader: Leader, parallel: Parallel):
        self._leader = leader
        self._parallel = parallel
        self._files: Checkpoint | None = None
        self._networks: dict[int, Network] = {}
        self._load_error = ""  # why there is no network
        self._caches: dict[int, Cache] = {}
        self._snapshots: dict[int, Snapshot] = {}
        self._stacks: dict[int, Sequence[Stack]] = {}
        self._states: dict[int, DiskSnapshotCache] = {}
        self._newest: Sequence[mx.array] = ()  # of the last pass

    def run(self) -> None:
        """Do what the first process commands, until it ends.

        Raises:
            Qwen35Error: this process cannot go on.
        """
        while (command := self._leader.next_command(self._settle))["call"] != "end":
            if "reply" not in command:
                self._do(command)
                continue
            try:
                answer = self._answer(command)
            except Qwen35Error as error:
                answer = {"error": str(error)}
            self._leader.reply(command, **answer)

    def _settle(self) -> None:
        """Wait until all is computed."""
        mx.eval(self._newest)
        self._newest = ()

    def _answer(self, command: Message) -> dict[str, Any]:
        """The fields of a reply."""
        match command["call"]:
            case "open":
                return self._open(ModelNames(**command["names"]))
            case "find_states":
                return {"ends": self._states[command["states"]].ends(command["ids"])}
            case "read_state":
                return self._read_state(command)
            case "close_states":
                self._states[command["states"]].close(command["seconds"])
                return {}
            case _:  # "wait": for all that came before it
                error, self._load_error = self._load_error, ""
                return {"error": error}

    def _open(self, names: ModelNames) -> dict[str, Any]:
        self._files = files = names.open(names.resolve())
        return {"weights": of_checkpoint(files.files, files.adapter)}

    def _load(self, command: Message) -> None:
        checkpoint, self._files = self._files, None
        assert checkpoint is not None
        if (norms := command["norms"]) is not None:
            checkpoint = checkpoint.with_mtp_norms(frozenset(norms))
        try:
            self._networks[command["network"]] = load_network(
                checkpoint,
                notice=self._leader.notice,
                parallel=self._parallel,
                **command["options"],
            )
        except Qwen35Error as error:
            self._load_error = str(error)

    def _open_states(self, command: Message) -> None:
        assert self._parallel.shard is not None
        model = of_part(command["model"], self._parallel.shard)
        folder, known = home() / RANK_STATES, set(command["keys"])
        for file in prefix_tree.stored_files(folder / model):
            if file.segment.key not in known:  # its conversation is deleted
                prefix_tree.delete(file)
        self._states[command["states"]] = DiskSnapshotCache(
            folder,
            model,
            budget=command["budget"],
            notice=self._leader.notice,
        )

    def _read_state(self, command: Message) -> dict[str, Any]:
        states, end, mtp = (command[name] for name in ("states", "end", "mtp"))
        snapshot = self._states[states].read(command["ids"], end, mtp=mtp)
        if snapshot is None:
            return {"read": False}
        self._snapshots[command["snapshot"]] = snapshot
        return {"read": True, "head": snapshot.head is not None}

    def _drop(self, number: int) -> None:
        if (states := self._states.pop(number, None)) is not None:
            states.finish()
        for objects in (self._caches, self._snapshots, self._stacks):
            objects.pop(number, None)
        if self._networks.pop(number, None) is not None:
            mx.clear_cache()

    def _shared(self, command: Message) -> mx.array:
        """The array that only the first process has."""
        dtype = getattr(mx, command["dtype"])
        return self._parallel.from_first(mx.zeros(command["shape"], dtype))

    def _head(self, command: Message) -> HeadState:
        head = self._caches[command["cache"]].head
        assert head is not None
        return head

    def _do(self, command: Message) -> None:
        """A call without a reply."""
        self._newest = ()  # a cache changes arrays in place that nobody else has
        match command["call"]:
            case "drop":
                for number in command["objects"]:
                    self._drop(number)
            case "open_states":
                self._open_states(command)
            case "add_state":
                snapshot = self._snapshots[command["snapshot"]]
                self._states[command["states"]].add(command["ids"], snapshot)
            case "measure":
                measure(self._parallel)
            case "load":
                self._load(command)
            case "snapshot":
                snapshot = self._caches[command["cache"]].snapshot()
                self._snapshots[command["snapshot"]] = snapshot
            case "restore":
                self._caches[command["cache"]].restore(self._snapshots[command["snapshot"]])
            case "leave_stack":
                self._caches[command["cache"]].leave_stack()
            case "head_take_back":
                self._head(command).kv.take_back(command["count"])
            case "head_clear":
                self._head(command).clear()
            case "head_keep":
                self._head(command).keep(self._shared(command), command["end"])
            case _:
                self._compute(command, self._networks[command["network"]])

    def _compute(self, command: Message, network: Network) -> None:
        """A call of a network."""
        match command["call"]:
            case "make_cache":
                self._caches[command["cache"]] = network.make_cache(command["kv_bits"])
            case "pass":
                cache = self._caches[command["cache"]]
                network(self._shared(command), cache, revocable=command["revocable"])
                mx.async_eval(cache.arrays)
                self._newest = cache.arrays
            case "together":
                caches = [self._caches[number] for number in command["caches"]]
                stacks = self._stacks[command["stacks"]]
                self._newest = [network.together(self._shared(command), caches, stacks)]
                mx.async_eval([cache.arrays for cache in caches])
            case "make_stacks":
                self._stacks[command["stacks"]] = network.make_stacks()
            case "take_back":
                network.take_back(self._caches[command["cache"]], command["count"])
            case "embed":
                self._newest = [network.embed(self._shared(command))]
            case "logits":
                self._newest = [network.logits(self._shared(command))]
            case "head":
                assert network.mtp is not None
                kv = self._head(command).kv
                hidden, embedded_next = mx.split(self._shared(command), 2, axis=-1)
                network.mtp(hidden, embedded_next, kv)
                mx.async_eval(kv.arrays)
                self._newest = kv.arrays
            case unknown:
                raise Qwen35Error(f"{unknown} is no command: install the same on all machines")
