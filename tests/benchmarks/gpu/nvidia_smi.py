"""The GPU as `nvidia-smi` sees it: all processes' memory, and how busy it is."""

from __future__ import annotations

import statistics
import subprocess
import threading


def query(fields: str) -> list[float]:
    """Of GPU 0; empty where there is no nvidia-smi."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [float(field) for field in text.strip().splitlines()[0].split(",")]
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return []


def used_mib() -> float:
    """MiB of GPU 0 that all processes use."""
    return (query("memory.used") or [0.0])[0]


class Utilisation:
    """Asked for twice a second until `stop`."""

    def __init__(self, on: bool) -> None:
        self._seen: list[list[float]] = []
        self._end = threading.Event()
        if on:
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._end.wait(0.5):
            if seen := query("utilization.gpu,memory.used"):
                self._seen.append(seen)

    def stop(self) -> dict[str, float]:
        """Mean utilisation in percent and the peak of memory in MiB; empty where nothing was seen."""
        self._end.set()
        if not self._seen:
            return {}
        return {"mean_utilisation": statistics.mean(s[0] for s in self._seen), "peak_mib": max(s[1] for s in self._seen)}
