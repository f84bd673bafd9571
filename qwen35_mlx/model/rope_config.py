"""Rotary settings of config.json, wherever they stand. No MLX.

They are read as transformers 5.23 reads them: of two places the one that it computes with wins,
and what it cannot compute with is refused. `tests/model/config_goldens.json` records its word.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.untrusted_json import Fields

# Values where config.json gives none.
DEFAULT_THETA = 1e4
DEFAULT_ROTARY_SHARE = 0.25

_YARN = "yarn"
_DEFAULT = "default"
_ORIGINAL = "original_max_position_embeddings"
_NESTED = ("linear_attention", "full_attention")
# Settings of YaRN, which mean nothing outside the object with the rotary settings.
_SCALING = (
    *("rope_type", "factor", "attention_factor", "beta_fast", "beta_slow", "truncate"),
    *("mscale", "mscale_all_dim"),
)
# Every rotary setting that may stand outside that object.
OUTSIDE = ("rope_theta", "partial_rotary_factor", _ORIGINAL, *_SCALING)


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding of the full-attention layers.

    Attributes:
        theta: base of the frequencies.
        partial_rotary_factor: the share of head_dim, from its start, that is rotated.
        scaling: the whole `rope_parameters` of a YaRN checkpoint, None for plain RoPE.
    """

    theta: float
    partial_rotary_factor: float
    scaling: Mapping[str, Any] | None = None


def read_rope(text: Fields, positions: int) -> RopeConfig:
    """The rotary settings of a text config.

    `rope_scaling` replaces `rope_parameters` as a whole. `rope_theta` and `partial_rotary_factor`
    beside them count only if they lack those, and `original_max_position_embeddings` beside them
    counts even if they have it. No other setting beside them counts.

    Args:
        text: the text config.
        positions: its `max_position_embeddings`.

    Raises:
        Qwen35Error: a setting has the wrong type, is null, or is not supported.
    """
    flat = text.values
    parameters = dict(rope_section(text).values)
    if nested := [name for name in _NESTED if name in parameters]:
        raise Qwen35Error(
            f"config.json: RoPE is given for {nested[0]} layers alone, and Qwen3.5 has one for all "
            "layers: write its settings directly into 'rope_parameters'"
        )
    parameters.setdefault("rope_theta", flat.get("rope_theta", DEFAULT_THETA))
    parameters.setdefault(
        "partial_rotary_factor", flat.get("partial_rotary_factor", DEFAULT_ROTARY_SHARE)
    )
    parameters.setdefault("rope_type", parameters.get("type", _DEFAULT))
    kind = parameters["rope_type"]
    if kind == _YARN:
        parameters.setdefault(_ORIGINAL, positions)
        if _ORIGINAL in flat:
            parameters[_ORIGINAL] = flat[_ORIGINAL]
    for name in ("rope_type", "rope_theta", "partial_rotary_factor", _ORIGINAL):
        if parameters.get(name, 0) is None:
            raise Qwen35Error(f"config.json: '{name}' of RoPE is null: fetch the file again")
    fields = Fields(parameters, text.source)
    if fields.text("rope_type", _DEFAULT) not in (_DEFAULT, _YARN):
        raise Qwen35Error(
            f"config.json: rope_type {shown(kind)} is not known here: use default or yarn"
        )
    return RopeConfig(
        theta=fields.number("rope_theta", low=1.001, high=1e15),
        partial_rotary_factor=fields.number("partial_rotary_factor", low=0, high=1),
        scaling=_yarn_parameters(fields, positions) if kind == _YARN else None,
    )


def rope_section(text: Fields) -> Fields:
    """The object that holds the rotary settings; of no fields if there is none."""
    scaling = text.section("rope_scaling")
    return scaling if scaling.values else text.section("rope_parameters")


def rope_parameters(text: Fields, rope: RopeConfig) -> dict[str, Any]:
    """`rope_parameters` that say what a text config says, whatever the places it says it in."""
    kept = {name: v for name, v in rope_section(text).values.items() if name.startswith("mrope_")}
    plain = {
        "rope_type": _DEFAULT,
        "rope_theta": rope.theta,
        "partial_rotary_factor": rope.partial_rotary_factor,
    }
    return {**kept, **plain, **(rope.scaling or {})}


def check_rope_beside_text_config(top: Fields) -> None:
    """Refuse a scaled RoPE outside text_config, where it would have no effect.

    Raises:
        Qwen35Error: there is one, or it is not an object.
    """
    for name in ("rope_scaling", "rope_parameters"):
        rope = top.section(name).values
        kind = rope.get("rope_type", rope.get("type", _DEFAULT))
        if kind != _DEFAULT:
            raise Qwen35Error(
                f"config.json: '{name}' asks for RoPE of the type {shown(kind)} beside "
                "'text_config', where the text model has its settings: move it into 'text_config'"
            )


def rope_notes(text: Fields) -> list[str]:
    """Lines on rotary settings of a valid text config that have no effect, or that are assumed."""
    flat, rope = text.values, rope_section(text).values
    kind = rope.get("rope_type", rope.get("type", _DEFAULT))
    notes = []
    if "rope_theta" not in rope and "rope_theta" not in flat:
        notes.append(
            f"config.json gives no rope_theta: {DEFAULT_THETA:g} is used, as by transformers"
        )
    if rope is flat.get("rope_scaling") and flat.get("rope_parameters"):
        notes.append(
            "config.json: 'rope_scaling' is used in place of 'rope_parameters', as by transformers"
        )
    original = rope.get(_ORIGINAL)
    if kind == _YARN and original is not None and flat.get(_ORIGINAL, original) != original:
        notes.append(
            f"config.json: '{_ORIGINAL}' {shown(flat[_ORIGINAL])} is used in place of "
            f"{shown(original)} of RoPE, as by transformers"
        )
    unused = [name for name in ("rope_theta", "partial_rotary_factor") if name in rope]
    unused += [*_SCALING, *([] if kind == _YARN else [_ORIGINAL])]
    if ignored := [n for n in unused if flat.get(n) not in (None, rope.get(n))]:
        notes.append(
            f"config.json: '{ignored[0]}' outside 'rope_parameters' has no effect, as in "
            "transformers"
        )
    if kind == _DEFAULT and rope.get("factor") is not None:
        notes.append(
            "config.json: 'factor' of RoPE has no effect with rope_type default, as in transformers"
        )
    return notes


def _yarn_parameters(rope: Fields, positions: int) -> Mapping[str, Any]:
    """`rope_parameters` of a YaRN checkpoint, with every number in it checked."""
    for name in ("beta_fast", "beta_slow", "attention_factor"):
        rope.number(name, 1.0, low=1e-3, high=1e6)
    for name in ("mscale", "mscale_all_dim"):
        rope.number(name, 0.0, low=0, high=1e6)
    rope.flag("truncate")
    original = rope.whole(_ORIGINAL)
    # A factor of null follows from the two lengths; a missing one is an error.
    implied = positions / original if "factor" in rope.values else None
    return {
        **rope.values,
        "factor": rope.number("factor", implied, low=1e-3, high=1e6),
        _ORIGINAL: original,
    }
