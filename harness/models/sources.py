"""Where pretrained weights and tokenizers come from: a model hub, a directory, or an installed Python package.

Whatever the origin, it ends in one local directory, which is checked once: safetensors weights, and no code to run.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import importlib.resources
import importlib.util
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.digest import digest
from harness.errors import ModelError
from harness.hub import HubError, snapshot
from harness.models.families import FIRST_TOKEN_CLASSIFIERS
from harness.study.schema import ModelSpec
from harness.study.schema_errors import nearest

PACKAGE_PREFIX = "package:"
# What a snapshot of a hub repository needs; everything but pickled weights and code
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def resolve_model_path(model: str) -> str:
    """A hub name stays as it is; a directory or `package:NAME/SUBDIR` becomes an absolute path.

    Raises ModelError for a package that is not installed, and for a path that is no directory.
    """
    if model.startswith(PACKAGE_PREFIX):
        return str(_package_directory(model))
    path = Path(model).expanduser()
    if path.is_dir():
        return str(path.resolve())
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise ModelError(
            f"model {model!r}: there is no such directory.{_near_directory(path)} Give a directory with config.json and "
            f"model.safetensors, a hub name such as `org/name`, or `{PACKAGE_PREFIX}NAME/SUBDIR` for weights that a Python "
            "package ships."
        )
    return model


def model_directory(model: str, revision: str | None = None) -> Path:
    """The local directory of a model; a hub model is downloaded once a process, or found in the hub's cache (`harness.hub`).

    Raises ModelError where it cannot be had.
    """
    resolved = resolve_model_path(model)
    if Path(resolved).is_absolute():
        return Path(resolved)
    try:
        return snapshot("model", resolved, revision, _HUB_FILES, ["*/*"])
    except HubError as error:
        raise ModelError(
            f"model {model!r}{f' at revision {revision!r}' if revision else ''} is no local directory and could not be had "
            f"from the hub ({error}).{_near_directory(Path(model))} Check the name and the connection, log in if it is gated, "
            f"fetch it beforehand with `python -m harness prefetch STUDY`, or give a local directory or "
            f"`{PACKAGE_PREFIX}NAME/SUBDIR` instead."
        ) from error


def check_weights(directory: Path, model: str) -> None:
    """Raises ModelError unless `directory` holds a configuration and safetensors weights, and wants no code to be run."""
    config = directory / "config.json"
    if not config.is_file():
        raise ModelError(f"model {model!r}: no config.json in its directory; is this a transformers model?")
    try:
        content = json.loads(config.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"model {model!r}: its config.json is no JSON ({error})") from error
    if "auto_map" in content:
        raise ModelError(
            f"model {model!r} brings its own Python code (`auto_map` in config.json), which is never run here. "
            "Use a model whose architecture transformers itself has."
        )
    if not any(directory.glob("*.safetensors")):
        others = sorted(
            path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack") for path in directory.glob(pattern)
        )
        found = f"only {', '.join(others)}" if others else "no weights"
        raise ModelError(
            f"model {model!r} has {found}; weights are read from model.safetensors alone, because unpickling can run code. "
            "Convert it once with transformers' `save_pretrained`."
        )
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        named = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        if missing := sorted(name for name in named if not (directory / name).is_file()):
            raise ModelError(f"model {model!r} lacks {', '.join(missing)}, of which {index.name} says that weights are in it")


def known_configuration(spec: ModelSpec) -> dict[str, Any]:
    """What is known of a model's configuration without a download: nothing of a hub model, or of one that cannot be read."""
    if spec.config is not None:  # the word-level tokenizer pads with token 0; of another one nothing is known yet
        return {"pad_token_id": 0 if spec.tokenizer in (None, "words") else 1, **spec.config}
    assert spec.model is not None
    try:
        path = Path(resolve_model_path(spec.model))
        content = json.loads((path / "config.json").read_text("utf-8")) if path.is_absolute() else {}
    except (ModelError, OSError, ValueError):
        return {}  # said when the model is wanted
    return content if isinstance(content, dict) else {}


@lru_cache
def text_classifiers() -> frozenset[str]:
    """The model types of which the installed `transformers` has sequence classifiers; none where it does not list them.

    Read from its source, in milliseconds: importing it takes seconds.
    """
    found = importlib.util.find_spec("transformers")
    if found is None or found.origin is None:
        return frozenset()
    file = Path(found.origin).parent / "models" / "auto" / "modeling_auto.py"
    listed = re.search(
        r"^MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES = OrderedDict\((.*?)^\)",
        file.read_text("utf-8") if file.is_file() else "",
        re.DOTALL | re.MULTILINE,
    )
    return frozenset(re.findall(r'\("([^"]+)", *"', listed[1])) if listed is not None else frozenset()


def family_refusal(config: dict[str, Any]) -> str | None:
    """Why no model with this configuration classifies text; None where one may."""
    kind, known = config.get("model_type"), text_classifiers()
    if not isinstance(kind, str) or not known or kind in known:
        return None
    return (
        f"the installed transformers has no sequence classifier of the model_type {kind!r}.{nearest(kind, known)} "
        f"It has them of {len(known)} types, such as {', '.join(FIRST_TOKEN_CLASSIFIERS)}."
    )


def files_refusal(spec: ModelSpec) -> str | None:
    """Why the files of a model cannot be used, as far as they are here; None for a model of the hub, or of a package or a
    directory of another machine.
    """
    if spec.model is None:
        return None
    try:
        path = Path(resolve_model_path(spec.model))
    except ModelError:
        return None  # said when the model is wanted
    try:
        if path.is_absolute():
            check_weights(path, spec.model)
    except ModelError as error:
        return str(error)
    return None


def _near_directory(path: Path) -> str:
    """` Did you mean './my-teacher'?`: a directory of a model beside it; or nothing."""
    parent = path.expanduser().parent
    there = [str(found.parent) for found in parent.glob("*/config.json")] if parent.is_dir() else []
    near = difflib.get_close_matches(path.name, [Path(one).name for one in there], n=1)
    if not near:
        return ""
    found = str(path.parent / near[0])
    return f" Did you mean {found if path.is_absolute() or found.startswith('~') else f'./{found}'!r}?"


def is_on_hub(model: str) -> bool:
    """Whether this names neither a directory nor a package. Raises ModelError as `resolve_model_path` does."""
    return not Path(resolve_model_path(model)).is_absolute()


def model_digest(spec: ModelSpec) -> str:
    """What the model is made of: the contents of its weights, configuration and tokenizer, or its given configuration.

    Where it lies and what it is called do not count. Raises ModelError where it cannot be had.
    """
    parts: list[object] = []
    if spec.model is not None:
        directory = model_directory(spec.model, spec.revision)
        check_weights(directory, spec.model)
        parts.append(_directory_digest(directory, with_weights=True))
    else:
        parts.append(spec.config)
    if spec.tokenizer not in (None, "words"):
        assert spec.tokenizer is not None
        parts.append(_directory_digest(model_directory(spec.tokenizer), with_weights=False))
    return digest(parts)


def _package_directory(model: str) -> Path:
    name, _, rest = model.removeprefix(PACKAGE_PREFIX).partition("/")
    try:
        root = importlib.resources.files(name) if name.isidentifier() else None
    except ModuleNotFoundError:
        root = None
    if root is None:
        near = difflib.get_close_matches(name, importlib.metadata.packages_distributions(), 1)
        hint = f" Did you mean {PACKAGE_PREFIX}{near[0]}/{rest}?" if near else ""
        raise ModelError(
            f"model {model!r}: no Python package {name!r} is installed. "
            f"Install it first: python -m pip install {name.replace('_', '-')}.{hint}"
        )
    directory = Path(str(root.joinpath(*rest.split("/")) if rest else root))
    if not directory.is_dir():
        inside = sorted(path.name for path in Path(str(root)).iterdir() if path.is_dir() and not path.name.startswith("_"))
        raise ModelError(f"model {model!r}: package {name!r} has no directory {rest!r}; it has {inside}")
    return directory.resolve()


def _directory_digest(directory: Path, with_weights: bool) -> str:
    patterns = _HUB_FILES if with_weights else [pattern for pattern in _HUB_FILES if pattern != "*.safetensors"]
    files = sorted({path for pattern in patterns for path in directory.glob(pattern)})
    return digest([(path.name, _file_digest(path, *_identity(path))) for path in files])


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=256)
def _file_digest(path: Path, size: int, modified: int) -> str:
    """Reading gigabytes once is enough; size and time of change are part of the cache's key."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
