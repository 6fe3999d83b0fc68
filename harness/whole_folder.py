"""A folder appears whole or not at all, whoever else makes the same one at the same time."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder to fill, which becomes `folder` at the end of the context.

    The first one wins: where another process was faster, its folder stays and this one's content is dropped, so what a folder
    holds must follow from its name. Where the context raises, nothing appears. Raises OSError for a file system that refuses.
    """
    with scratch_beside(folder) as unfinished:
        yield unfinished
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process was first
                raise


@contextmanager
def scratch_beside(folder: Path) -> Iterator[Path]:
    """An empty folder on the same file system as `folder`, so that its files can be moved there; gone after the context.

    What is raised for a full disk, which NumPy and safetensors say in words of their own, becomes an OSError that names the
    folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # others may read what becomes of it, so it is made with usual permissions; not every file system lets them be changed
    scratch = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
    scratch.mkdir()
    try:
        yield scratch
    except Exception as error:
        if _is_full(error, scratch):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.parent)) from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_full(error: Exception, scratch: Path) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    said = str(error)  # numpy: "4096 requested and 256 written"; safetensors: "No space left on device (os error 28)"
    return os.strerror(errno.ENOSPC) in said or (" requested and " in said and said.endswith(" written"))
