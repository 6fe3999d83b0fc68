"""Compiles `device.cpp` against the torch that is installed, and loads it before torch asks for its devices."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parent / "device.cpp"


def load() -> None:
    """Raises RuntimeError where torch was imported before, and CalledProcessError where there is no C++20 compiler `g++`."""
    if "torch" in sys.modules:
        raise RuntimeError("import tests.benchmarks.gpu.simulated_cuda before torch")
    ctypes.CDLL(str(_library()), mode=ctypes.RTLD_GLOBAL)


def _library() -> Path:
    """Kept in the system's temporary folder, or in SIMULATED_CUDA_BUILD, for each source and version of torch."""
    given = os.environ.get("SIMULATED_CUDA_BUILD")
    folder = Path(given) if given else Path(tempfile.gettempdir()) / f"simulated_cuda_{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    version = importlib.metadata.version("torch")
    found = folder / f"{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}_{version}.so"
    if not found.exists():
        spec = importlib.util.find_spec("torch")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        torch = Path(spec.submodule_search_locations[0])
        include, libraries = torch / "include", torch / "lib"
        made = folder / f"{os.getpid()}.so"  # under its name only once it is whole: others may be building, too
        command = ["g++", "-std=c++20", "-O0", "-shared", "-fPIC", f"-I{include}", f"-I{include}/torch/csrc/api/include"]
        command += [str(SOURCE), "-o", str(made), f"-L{libraries}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{libraries}"]
        subprocess.run(command, check=True)
        made.rename(found)
    return found
