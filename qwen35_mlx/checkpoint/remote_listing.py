"""The weight files of a repository on the Hub, before any is fetched. No MLX."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from qwen35_mlx.checkpoint.hub import ALLOW_PATTERNS, IGNORE_PATTERNS
from qwen35_mlx.checkpoint.index import is_head_file
from qwen35_mlx.errors import Qwen35Error

SHARD = re.compile(r"[^/\\]+\.safetensors")


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository.

    Attributes:
        shards: size and SHA-256 by name.
        heads: the same of files that an MTP head has for itself.
        names: of all files.
    """

    commit: str
    shards: Mapping[str, tuple[int, str | None]]
    heads: Mapping[str, tuple[int, str | None]]
    names: frozenset[str]


def list_repository(repository: str, revision: str | None) -> Listing:
    """The weight files of a repository.

    Raises:
        Qwen35Error: the Hub sends a list that cannot be one.
        Exception: of huggingface_hub.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    wanted = filter_repo_objects(
        siblings, allow_patterns=list(ALLOW_PATTERNS), ignore_patterns=list(IGNORE_PATTERNS)
    )
    shards: dict[str, tuple[int, str | None]] = {}
    heads: dict[str, tuple[int, str | None]] = {}
    for name in wanted:
        if not name.endswith(".safetensors"):
            continue
        size, lfs = siblings[name].size, siblings[name].lfs
        if not name.isprintable() or type(size) is not int or info.sha is None:
            raise Qwen35Error(f"the Hub's list of {repository} is damaged: check HF_ENDPOINT")
        is_head = not SHARD.fullmatch(name) or is_head_file(name)
        (heads if is_head else shards)[name] = size, lfs.sha256 if lfs else None
    return Listing(info.sha or "", shards, heads, frozenset(siblings))
