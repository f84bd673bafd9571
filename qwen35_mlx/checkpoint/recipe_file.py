"""Recipes by name, or in TOML files.

    base = "4bit"              # a recipe by name that this file changes; optional
    search = true              # search scales for the least error; the base's, else true

    [default]                  # kinds without a table of their own; needed without a base
    bits = 4
    group_size = 64            # 64 in affine mode, else the only one that the mode has
    mode = "affine"            # or mxfp4, mxfp8, nvfp4

    [kinds.attention_v]        # one of `recipes.KINDS`
    bits = 6

    [kinds.router]
    plain = true               # not quantised

    [favoured.mlp_down]        # instead of [kinds.mlp_down] in the first and the last eighth of
    bits = 6                   # the layers, and in every third layer between

Routers and shared-expert gates have 8 bits unless they have a table. Upgrades of the base go on for
the kinds that the file does not name, but end with a [default] of its own.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen35_mlx.checkpoint.recipes import KINDS, RECIPES, Recipe, plain, quantization
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_text
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.user_paths import absolute_user_path

_SETTINGS = {"bits": int, "group_size": int, "mode": str, "plain": bool}


def find_recipe(word: str) -> Recipe:
    """The recipe of this name, or that of a file that ends in .toml.

    Raises:
        Qwen35Error: there is none, or the file is not a recipe; the line names file and key.
    """
    if word in RECIPES:
        return RECIPES[word]
    if not word.endswith(".toml"):
        raise Qwen35Error(
            f"recipe {word!r} is not known: choose one of {', '.join(RECIPES)}, or a .toml file"
        )
    return read_recipe(absolute_user_path(word))


def read_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file.

    Raises:
        Qwen35Error: as `find_recipe`.
    """
    try:
        content = tomllib.loads(read_text(path, "give a text file in UTF-8"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise Qwen35Error(f"{path} is not TOML: {error}") from error
    _check_keys(path, "", content, ("base", "search", "default", "kinds", "favoured"))
    base, default = content.get("base"), content.get("default")
    if base is not None and base not in (names := list(RECIPES)):
        raise Qwen35Error(f"{path}: base = {base!r} is no recipe: choose one of {', '.join(names)}")
    if base is None and default is None:
        raise Qwen35Error(f"{path} has neither a base nor a [default]: add one of them")
    search = content.get("search", RECIPES[base].search if base else True)
    if not isinstance(search, bool):
        raise Qwen35Error(f"{path}: search = {search!r} must be true or false")
    kinds, favoured = (_entries(path, table, content.get(table, {})) for table in _TABLES)
    recipe = RECIPES[base] if base else None
    if default is not None:
        chosen = _entry(path, "default", default)
        known = recipe or (plain(chosen) if chosen else Recipe("", None))
        recipe = replace(known, default=chosen, upgrades=())
    assert recipe is not None
    named = {*kinds, *favoured}
    upgrades = tuple(
        replace(upgrade, kinds=tuple(kind for kind in upgrade.kinds if kind not in named))
        for upgrade in recipe.upgrades
    )
    kept = {kind: entry for kind, entry in recipe.favoured.items() if kind not in named}
    return replace(
        recipe,
        name=path.name,
        kinds={**recipe.kinds, **kinds},
        favoured=kept | favoured,
        search=search,
        upgrades=upgrades,
    )


_TABLES = ("kinds", "favoured")


def _entries(path: Path, table: str, content: Any) -> dict[str, Quantization | None]:
    _check_keys(path, table, content, KINDS)
    return {kind: _entry(path, f"{table}.{kind}", entry) for kind, entry in content.items()}


def _entry(path: Path, table: str, content: Any) -> Quantization | None:
    _check_keys(path, table, content, tuple(_SETTINGS))
    for key, value in content.items():
        if type(value) is not _SETTINGS[key]:
            kind = {int: "a whole number", str: "a word in quotes", bool: "true or false"}
            raise Qwen35Error(f"{path}: {table}.{key} must be {kind[_SETTINGS[key]]}")
    if content.get("plain"):
        if len(content) > 1:
            raise Qwen35Error(f"{path}: [{table}] is plain and has other settings: remove either")
        return None
    settings = (content.get("mode", "affine"), content.get("bits"), content.get("group_size"))
    try:
        return quantization(*settings)
    except Qwen35Error as error:
        raise Qwen35Error(f"{path}: [{table}]: {error}") from error


def _check_keys(path: Path, table: str, content: Any, known: tuple[str, ...]) -> None:
    if not isinstance(content, Mapping):
        raise Qwen35Error(f"{path}: {table} must be a table: write [{table}] above its settings")
    for key in content:
        if key not in known:
            where = f"{table}.{key}" if table else key
            raise Qwen35Error(f"{path}: {where} is not known: choose one of {', '.join(known)}")
