"""How much memory a process holds, and how much more there is before the machine, or the container, has no more."""

from collections.abc import Iterable
from pathlib import Path

LIMITS = (  # of a container: what it may hold and what it holds, version 2 and 1 of control groups
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def resident(pid: int) -> int:
    """Bytes that a process holds now; 0 where that is not known."""
    return 1024 * _field(Path(f"/proc/{pid}/status"), "VmRSS:")


def held(pids: Iterable[int | None]) -> int:
    """Bytes that processes hold together; what they share is counted for each."""
    return sum(resident(pid) for pid in pids if pid)


def available() -> int | None:
    """Bytes that could still be taken; None where that is not known."""
    free = 1024 * _field(Path("/proc/meminfo"), "MemAvailable:")
    known = [free] if free else []
    for most, now, cache in LIMITS:
        limit = _text(Path(most))
        if limit.isdigit() and (used := _text(Path(now))).isdigit():
            reclaimable = _field(Path(most).with_name("memory.stat"), cache)
            known.append(int(limit) - int(used) + reclaimable)
    return max(0, min(known)) if known else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _field(path: Path, name: str) -> int:
    for line in _text(path).splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    return 0
