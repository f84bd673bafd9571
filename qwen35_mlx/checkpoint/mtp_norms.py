"""How the norms of an MTP head are stored: as w, or as the gain 1 + w.

Hugging Face stores w and MLX 1 + w, for the head as for the trunk. Tools that cut a head out of a
checkpoint convert all of its norms, none, or some, and nothing in the files says which. A norm
that is read wrongly gives no error, only guesses that the trunk never accepts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Values = np.ndarray

_LAYER_NORMS = ("input_layernorm", "post_attention_layernorm")
_HEAD_NORMS = ("q_norm", "k_norm")
_INPUT_NORMS = ("pre_fc_norm_embedding", "pre_fc_norm_hidden")

_NEGATIVE_SHARE = 0.1
_LAYER_NORM_MEAN = 0.6
# Below the first a mean is of w, above the second of 1 + w; None of both between them.
_HEAD_NORM_MEANS = (0.45, 0.9)
_INPUT_NORM_MEANS = (0.1, 0.5)
# A final norm below the first number is a gain if it is the trunk's within the second, as a share.
_FINAL_MEAN, _FINAL_TOLERANCE = 1.1, 0.1

# Standard errors by which a reading must be better to replace the one that the values suggest.
_SIGNIFICANT = 2.0


@dataclass(frozen=True, slots=True)
class NormReading:
    """How the norms of a head are read.

    Attributes:
        raw: canonical names of those whose file holds w; the others hold 1 + w.
        certain: whether the files leave no doubt. If not, it follows from the values.
    """

    raw: frozenset[str]
    certain: bool


def infer_raw_norms(norms: Mapping[str, Values], final_gain: Values) -> frozenset[str]:
    """The names of the norms that hold w, as far as their values show.

    A gain 1 + w is positive in every trained model, so a norm of which more than a tenth is
    negative holds w. Means decide the others. Measured in published heads and that of the demo
    model, each as w:

        input_layernorm, post_attention_layernorm   -0.2 to 0.4
        q_norm, k_norm                              0.5 to 0.8, perhaps -0.2
        pre_fc_norm_*                               -0.7 to 0.1
        norm                                        -0.8 to 2.6

    Only the means of layer norms are more than 1 apart from those plus 1, with room for a limit
    between them. The others are clear at the ends of the scale; between, they follow the layer
    norms, which tools convert first. So does the final norm, whose range is more than 1 wide, but
    for a mean of 1.1 at most that is the trunk's gain within a tenth: both precede the same output
    head. Above, it hardly matters which it is: nearly the same gain in all channels scales logits.

    Args:
        norms: the values in the files, by canonical name.
        final_gain: 1 + w of the trunk's final norm.
    """
    raw = {name for name, values in norms.items() if np.mean(values < 0) > _NEGATIVE_SHARE}
    means = {name: float(np.mean(values, dtype=np.float64)) for name, values in norms.items()}
    layer_norms = [name for name in norms if _kind(name) in _LAYER_NORMS]
    raw |= {name for name in layer_norms if means[name] < _LAYER_NORM_MEAN}
    middle = np.mean([means[name] for name in layer_norms]) if layer_norms else 1.0
    layers_are_raw = bool(middle < _LAYER_NORM_MEAN)
    for name in norms.keys() - set(layer_norms) - raw:
        if _kind(name) in _HEAD_NORMS:
            verdict = _by_limits(means[name], _HEAD_NORM_MEANS)
        elif _kind(name) in _INPUT_NORMS:
            verdict = _by_limits(means[name], _INPUT_NORM_MEANS)
        else:
            verdict = _by_trunk(means[name], float(np.mean(final_gain, dtype=np.float64)))
        if layers_are_raw if verdict is None else verdict:
            raw.add(name)
    return frozenset(raw)


def _by_limits(mean: float, limits: tuple[float, float]) -> bool | None:
    """Whether a mean is of w; None if it may be either."""
    below, above = limits
    return True if mean < below else False if mean > above else None


def _by_trunk(mean: float, gain: float) -> bool | None:
    like_trunk = abs(mean - gain) <= _FINAL_TOLERANCE * abs(gain)
    return False if mean < _FINAL_MEAN and like_trunk else None


def _kind(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]


def candidate_readings(names: Iterable[str], decided: frozenset[str]) -> tuple[frozenset[str], ...]:
    """Readings worth a trial: as decided, all w, all 1 + w, and one group of norms the other way.

    The groups are those that tools miss or convert together.
    """
    every = frozenset(names)
    groups = [
        frozenset(name for name in every if _kind(name) in kinds)
        for kinds in (_LAYER_NORMS, _HEAD_NORMS, _INPUT_NORMS, ("norm",))
    ]
    flipped = [decided ^ group for group in groups]
    return tuple(dict.fromkeys([decided, every, frozenset(), *flipped]))


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The result of `confirm_norms`.

    Attributes:
        raw: names of the norms that hold w.
        agreement: share of positions at which the head's guess is the trunk's own token.
        others: the highest such share of any other reading.
        line: what was found, for the user.
    """

    raw: frozenset[str]
    agreement: float
    others: float
    line: str


def confirm_norms(
    names: Iterable[str],
    decided: frozenset[str],
    agrees: Callable[[Sequence[frozenset[str]]], Sequence[Values]],
) -> Confirmation:
    """Try the readings of a head's norms on a text, and keep the one that guesses best.

    A reading replaces the decided one only if it is better by more than chance explains: at the
    positions where just one of them agrees with the trunk, by two standard errors of a fair coin.

    Args:
        names: of all norms of the head.
        decided: those that hold w, as `infer_raw_norms` has it.
        agrees: runs the head with each of such readings; whether its greedy guess is the trunk's
            own token, [N] bool, at the same positions for every reading. N must not be 0.
    """
    every = frozenset(names)
    readings = candidate_readings(every, decided)
    results = dict(zip(readings, agrees(readings), strict=True))
    best = max(results, key=lambda raw: int(results[raw].sum()))
    kept = best if _is_better(results[best], results[decided]) else decided
    others = {raw: result for raw, result in results.items() if raw != kept}
    second = max(float(result.mean()) for result in others.values())
    # Whole heads that were read wrongly, not one group of norms whose size hardly matters.
    rivals = [others[raw] for raw in (every, frozenset()) if raw in others]
    told_apart = all(_is_better(results[kept], rival) for rival in rivals)
    share = float(results[kept].mean())
    line = (
        f"norms of the MTP head are read as {describe(kept, every)}: it guesses {share:.0%} of the "
        f"model's own tokens on {len(results[kept])} positions, read otherwise {second:.0%} at most"
    )
    if not told_apart:
        line += "; that does not tell the readings apart, and the values of the norms decide"
    return Confirmation(kept, share, second, line)


def _is_better(one: Values, other: Values) -> bool:
    won, lost = int(np.sum(one & ~other)), int(np.sum(other & ~one))
    return won - lost > _SIGNIFICANT * np.sqrt(won + lost)


def describe(raw: frozenset[str], names: Iterable[str]) -> str:
    """A reading in words: "w", "1 + w", or "1 + w, but w in ..."."""
    gains = frozenset(names) - raw
    if not gains:
        return "w"
    if not raw:
        return "1 + w"
    kinds = ", ".join(sorted({_kind(name) for name in raw}))
    return f"1 + w, but w in {kinds}"
