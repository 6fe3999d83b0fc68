"""Repositories of the Hugging Face hub: asked once, by the process that drives a study, and named by commit from then on.

The files lie in the hub's own cache (HF_HOME), which all nodes of a cluster must see. The commits travel with every trial and
teacher: the processes that train ask nobody, and what changes on the hub meanwhile changes nothing here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

TRIES = 3
LONGEST_WAIT = 60.0
_BUSY = (429, 500, 502, 503, 504)
_commits: dict[str, str] = {}
"""What this process knows: kind, name and revision -> commit."""
_pinned: set[str] = set()
"""Those that it was told by the one that asked."""


class HubError(Exception):
    """What a repository cannot be had for, in the hub's words; one line."""


def commits() -> dict[str, str]:
    """All that this process has resolved so far, for those that shall not ask."""
    return dict(_commits)


def pin(known: Mapping[str, str]) -> None:
    """From here on these repositories are read at these commits from the cache, and the hub is not asked for them."""
    _pinned.update(key for key, commit in known.items() if _commits.get(key) != commit)
    _commits.update(known)


def snapshot(
    kind: Literal["model", "dataset"], name: str, revision: str | None, only: Sequence[str], without: Sequence[str]
) -> Path:
    """The local folder of a repository at a revision (None: main); files that match `only` and not `without`.

    Without a network it is that revision as it was last fetched. Raises HubError.
    """
    from huggingface_hub import snapshot_download

    key = f"{kind} {name}@{revision or 'main'}"
    known = _commits.get(key)
    wanted: dict[str, Any] = {"repo_type": kind, "allow_patterns": list(only), "ignore_patterns": list(without)}
    attempt = 0
    while True:
        attempt += 1
        try:
            found = Path(snapshot_download(name, revision=known or revision, local_files_only=key in _pinned, **wanted))
        except Exception as error:  # the libraries below raise a dozen kinds
            seconds = _wait(error, attempt)
            if key in _pinned or seconds is None:
                at = f" at commit {known}, which was resolved before" if known else ""
                raise HubError(_reason(error) + at) from error
            time.sleep(seconds)
        else:
            _commits[key] = found.name  # snapshots/<commit>
            return found


def cache_of_hub() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _wait(error: BaseException, attempt: int) -> float | None:
    """Seconds until another try; None where one would not help, or enough were made."""
    if attempt >= TRIES:
        return None
    for one in _chain(error):
        response = getattr(one, "response", None)
        if response is not None:
            if response.status_code not in _BUSY:
                return None
            asked = str(response.headers.get("Retry-After", ""))
            return min(LONGEST_WAIT, float(asked) if asked.isdecimal() else 2.0 ** (attempt - 1))
    dropped = any(type(one).__module__.startswith("httpx") for one in _chain(error))
    return 2.0 ** (attempt - 1) if dropped else None


def _reason(error: BaseException) -> str:
    """The hub's answer where it gave one: huggingface_hub hides it behind a word about the local cache."""
    chain = _chain(error)
    told = next((one for one in chain if getattr(one, "response", None) is not None), None)
    told = told or next((one for one in chain if type(one).__module__.startswith("httpx")), chain[0])
    said = " ".join(str(told).split()) or type(told).__name__
    return f"{type(told).__name__}: {said[:400]}"
