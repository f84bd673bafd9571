"""States of one Gated DeltaNet layer in several conversations, joined to rows of one array."""

from collections.abc import Sequence

import mlx.core as mx

from qwen35_mlx.model.cache import DeltaPass, DeltaState


class Stack:
    """The states after the latest pass, joined as the next one needs them.

    Conversations may join and leave between passes, and may change their state: what is in a
    `DeltaState` holds. Only if all are as the latest pass left them, nothing is copied.
    """

    def __init__(self) -> None:
        self._joined: tuple[mx.array, mx.array] | None = None
        self._rows: list[mx.array] = []  # of the recurrent state, as handed out

    def join(self, states: Sequence[DeltaState]) -> tuple[mx.array, mx.array]:
        """conv and recurrent of all, [N, ...] each: row i is that of `states[i]`."""
        joined, self._joined = self._joined, None  # so that a pass can free what it started from
        same = len(states) == len(self._rows)
        if (
            joined
            and same
            and all(state.recurrent is row for state, row in zip(states, self._rows, strict=True))
        ):
            return joined
        conv = [state.conv for state in states if state.conv is not None]
        recurrent = [state.recurrent for state in states if state.recurrent is not None]
        assert len(conv) == len(recurrent) == len(states)
        return mx.concatenate(conv), mx.concatenate(recurrent)

    def hand_out(
        self,
        conv: mx.array,
        recurrent: mx.array,
        projected: mx.array,
        states: Sequence[DeltaState],
    ) -> None:
        """Give each conversation its row of the states after a pass.

        Args:
            projected: [N, 1, width], as in `DeltaPass`.
        """
        self._joined, self._rows = (conv, recurrent), []
        for i, state in enumerate(states):
            assert state.conv is not None
            assert state.recurrent is not None
            state.last_pass = DeltaPass(state.conv, state.recurrent, projected[i : i + 1])
            state.conv, state.recurrent = conv[i : i + 1], recurrent[i : i + 1]
            self._rows.append(state.recurrent)
