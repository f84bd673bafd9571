"""The models on this machine, wherever they are kept. No MLX, no network."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from qwen35_mlx import demo
from qwen35_mlx.checkpoint import gguf_names
from qwen35_mlx.checkpoint.gguf_names import GgufModel
from qwen35_mlx.checkpoint.hub_name import HubName
from qwen35_mlx.checkpoint.index import CONFIG, read_index, weight_bytes
from qwen35_mlx.checkpoint.places import hub_cache, program_places, user_file, user_folder
from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.files import read_json_object, read_text
from qwen35_mlx.user_paths import is_dir, is_file

LEVELS = 3  # folders below a place: publisher, repository, quantisation
MAX_FOLDERS = 2000  # that are searched below one place
_MAX_LISTED = 12  # names in an error


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A checkpoint folder or a GGUF file, perhaps of another model or damaged.

    Attributes:
        name: as `load` takes it: `org/repo`, `org/repo/file.gguf`, or a path.
        path: the folder, or the first part of the GGUF file.
        program: that keeps it; "" for the cache of the Hub and for folders of the user.
        problem: why it is not complete; "" if it is.
    """

    name: str
    path: Path
    program: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class StoredModels:
    """All models on this machine.

    Attributes:
        models: each once.
        unsearched: folders with so many folders in them that not all were searched.
    """

    models: tuple[StoredModel, ...]
    unsearched: tuple[Path, ...] = ()


def stored_models(folders: Iterable[str] = ()) -> StoredModels:
    """All models on this machine, complete or not. Never raises.

    The order is that in which a name is looked for: the demo model, the cache of the Hub, other
    programs, `folders`. A name is that of the first model that has it; others go by their paths.

    Args:
        folders: checkpoints, or folders with checkpoints.
    """
    listed: dict[str, StoredModel] = {}
    names: set[str] = set()
    unsearched: list[Path] = []
    for model in _all_models(folders, unsearched):
        where = os.path.realpath(model.path)
        if where not in listed:
            listed[where] = replace(model, name=str(model.path)) if model.name in names else model
            names.add(model.name)
    return StoredModels(tuple(listed.values()), tuple(unsearched))


def copies(name: HubName) -> list[StoredModel]:
    """The complete copies of what a name means, at most one a place; the first is the one to use.

    Raises:
        Qwen35Error: a copy has several GGUF files, and the name does not say which.
    """
    repository, places = name.repository, program_places()
    groups = [("", _snapshots(repository))]
    groups += [(p.program, [p.folder / repository]) for p in places if p.by_publisher]
    found: dict[str, StoredModel] = {}
    for program, folders in groups:
        picked = (path for folder in folders if (path := _pick(folder, name)))
        if path := next(picked, None):
            found.setdefault(os.path.realpath(path), StoredModel(str(path), path, program))
    return list(found.values())


def local_checkpoint(name: str) -> Path | None:
    """The folder or GGUF file of a model on this machine; None if there is none. Never raises."""
    if name == demo.NAME:
        return demo.folder()
    if path := user_folder(name) or _gguf_file(name):
        return path
    with suppress(Qwen35Error):
        if (hub := HubName.parse(name)) and (found := copies(hub)):
            return found[0].path
    return None


def _gguf_file(name: str) -> Path | None:
    path = user_file(name)
    return path if path and gguf_names.is_gguf_file(path) else None


def in_folder(folder: Path) -> Path:
    """The folder itself, or its GGUF file if it has no other weights.

    Raises:
        Qwen35Error: there are several GGUF files in it.
    """
    models = [] if _has_weights(folder) else gguf_names.models_among(_entries(folder)[0])
    if not models:
        return folder
    found = gguf_names.matching(models)
    if len(found) != 1:
        files = _listed([str(folder / model.file) for model in models])
        raise Qwen35Error(f"{folder} has several GGUF files: choose one, {files}")
    return folder / found[0].file


def choose_gguf(name: HubName, files: Iterable[str]) -> GgufModel:
    """The GGUF model of a repository that a name means.

    Args:
        files: of the repository, by their paths in it.

    Raises:
        Qwen35Error: the name fits none of them, or several.
    """
    models = gguf_names.models_among(files)
    if not models:
        raise Qwen35Error(f"{name.repository} has no GGUF files: write {name.repository} alone")
    if name.file:
        found = [model for model in models if name.file in model.parts]
    else:
        found = gguf_names.matching(models, name.quantization)
    if len(found) == 1:
        return found[0]
    named = {f"{name.repository}:{m.quantization}" for m in models if m.quantization}
    every = [f"{name.repository}/{model.file}" for model in models]
    wanted = name.file or (name.quantization and f"GGUF file of {name.quantization}")
    raise Qwen35Error(
        f"{name.repository} has {'several GGUF files' if found or not wanted else f'no {wanted}'}: "
        f"choose one, {_listed(sorted(named) if len(named) == len(every) else every)}"
    )


def folder_problem(folder: Path) -> str:
    """Why a folder has no complete checkpoint, such as an interrupted download; "" if it has."""
    try:
        read_index(folder)
        weight_bytes(folder)
        if not read_json_object(folder / CONFIG):
            return f"it has no {CONFIG}: download it again"
        return _missing_commit(folder)
    except Qwen35Error as error:
        return short_error(error, folder)


def short_error(error: Qwen35Error, folder: Path) -> str:
    """An error's message without the folder, which a list names already."""
    return str(error).replace(f"{folder}/", "")


def _all_models(folders: Iterable[str], unsearched: list[Path]) -> Iterator[StoredModel]:
    yield StoredModel(demo.NAME, demo.folder())
    for repository in _cached_repositories():
        yield from _cached_models(repository)
    for place in program_places():
        for model in _models_below(place.folder, unsearched):
            below = model.path.relative_to(place.folder)
            hub = HubName.parse(below.as_posix())
            on_the_hub = hub is not None and bool(hub.file) == gguf_names.is_gguf(below.name)
            name = below.as_posix() if place.by_publisher and on_the_hub else model.name
            yield replace(model, name=name, program=place.program)
    for word in folders:
        if folder := user_folder(word):
            yield from _models_below(folder, unsearched)


def _models_below(root: Path, unsearched: list[Path]) -> Iterator[StoredModel]:
    """The models in a folder and in those below it, down to `LEVELS`, named by their paths."""
    waiting = [(root, 0)]
    for searched, (folder, level) in enumerate(waiting):
        if searched == MAX_FOLDERS:
            unsearched.append(root)
            return
        files, below = _entries(folder)
        models = gguf_names.models_among(files)
        weights = any(name.endswith(".safetensors") for name in files)
        if CONFIG in (*files, *below) and (weights or not models):
            yield StoredModel(str(folder), folder, problem=folder_problem(folder))
        yield from (_gguf_model(folder, model) for model in models)
        if level < LEVELS and not weights:
            waiting += [(folder / name, level + 1) for name in below if not name.startswith(".")]


def _cached_repositories() -> list[str]:
    """The names of the repositories in the cache of the Hub."""
    cache = hub_cache()
    names = [name.partition("--") for name in (_entries(cache)[1] if cache else ())]
    return [name.replace("--", "/", 1) for kind, _, name in names if kind == "models" and name]


def _snapshots(repository: str) -> list[Path]:
    """The snapshots of a repository in the cache: complete ones first, then by age."""
    cache = hub_cache()
    if cache is None:
        return []
    folder = cache / f"models--{repository.replace('/', '--')}" / "snapshots"
    found = [folder / name for name in _entries(folder)[1]]
    return sorted(
        found, key=lambda path: (not folder_problem(path), _modified(path), path), reverse=True
    )


def _cached_models(repository: str) -> Iterator[StoredModel]:
    """The best snapshot of a repository, and the GGUF files of all its snapshots.

    huggingface_hub can list them too, but one folder that it cannot read ends its list.
    """
    snapshots = _snapshots(repository)
    files: dict[str, StoredModel] = {}
    for snapshot in snapshots:
        for model in _gguf_models(snapshot):
            stored = replace(_gguf_model(snapshot, model), name=f"{repository}/{model.file}")
            if model.file not in files or (files[model.file].problem and not stored.problem):
                files[model.file] = stored
    if snapshots and (_has_weights(snapshots[0]) or not files):
        yield StoredModel(repository, snapshots[0], problem=folder_problem(snapshots[0]))
    yield from (files[name] for name in sorted(files))


def _pick(folder: Path, name: HubName) -> Path | None:
    """What a name means in one copy of its repository; None if that is not there or incomplete.

    Raises:
        Qwen35Error: that may be several GGUF files.
    """
    if not (name.quantization or name.file) and _has_weights(folder):
        return None if folder_problem(folder) else folder
    models = [model for model in _gguf_models(folder) if not model.missing]
    files = [part for model in models for part in model.parts]
    if name.file and name.file not in files:
        return None
    if name.quantization and not gguf_names.matching(models, name.quantization):
        return None
    return folder / choose_gguf(name, files).file if models else None


def _gguf_models(folder: Path) -> list[GgufModel]:
    """The GGUF models in a repository and the folders in it, by their path in it."""
    files, below = _entries(folder)
    for name in below:
        files += [f"{name}/{file}" for file in _entries(folder / name)[0]]
    return gguf_names.models_among(
        file for file in files if gguf_names.is_gguf(file) and is_file(folder / file)
    )


def _gguf_model(folder: Path, model: GgufModel) -> StoredModel:
    path = folder / model.file
    problem = f"{model.missing[0]} is missing: download it again" if model.missing else ""
    return StoredModel(str(path), path, problem=problem)


def _has_weights(folder: Path) -> bool:
    return any(name.endswith(".safetensors") for name in _entries(folder)[0])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more


def _missing_commit(folder: Path) -> str:
    """Why the Hub's client would not use this snapshot; "" if it would, or if it is none."""
    main = folder.parent.parent / "refs" / "main"
    if folder.parent.name != "snapshots" or not os.path.lexists(main):
        return ""
    commit = read_text(main).strip()
    if is_dir(folder.parent / commit):
        return ""
    return f"version {shown(commit)} is not downloaded: download it again"


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the files and of the folders in a folder; none if it cannot be read."""
    files, folders = list[str](), list[str]()
    with suppress(OSError, ValueError), os.scandir(folder) as entries:
        for entry in entries:
            (folders if _is_folder(entry) else files).append(entry.name)
    return sorted(files), sorted(folders)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link into a folder that may not be searched
        return False


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed since
        return 0.0
