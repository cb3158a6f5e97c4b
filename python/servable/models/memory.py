"""Whether a version fits into memory: better refused than the end of the whole process."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Admission", "Memory", "admission", "available_ram", "ram_limit", "total"]

CGROUP = "/sys/fs/cgroup"


class Admission(enum.Enum):
    """What is to be done about a version that wants to be loaded."""

    ADMIT = "there is room"
    WAIT = "there will be room, or there may be"
    EVICT = "there is room once something that is not in use has gone"
    REFUSE = "there is no room"


@dataclass(frozen=True)
class Memory:
    """What there is. `limits` are bounds on the sum of all estimates, by kind of memory."""

    limits: Mapping[str, int] = field(default_factory=dict)
    free: Callable[[], Mapping[str, int]] = dict
    """What is free at this moment, by kind, as far as that can be known."""

    def shortage(
        self,
        need: Mapping[str, int],
        free: Mapping[str, int],
        *,
        used: Mapping[str, int],
        coming: Mapping[str, int],
        leaving: Mapping[str, int],
    ) -> str:
        """Why `need` does not fit, empty if it does. `free` is what was free a moment ago.

        `used` are the estimates of all that is loaded, being loaded (`coming`) or being unloaded; what is `leaving` is
        taken to have gone.
        """
        for kind, wanted in need.items():
            limit = self.limits.get(kind)
            taken = used.get(kind, 0) - leaving.get(kind, 0)
            if limit is not None and taken + wanted > limit:
                return f"it takes about {_size(wanted)} of {kind}; {_size(taken)} of at most {_size(limit)} are taken"
            left = free.get(kind)
            if left is not None and wanted > left - coming.get(kind, 0) + leaving.get(kind, 0):
                promised = coming.get(kind, 0)
                others = f", of which versions that are being loaded get {_size(promised)}" if promised else ""
                return f"it takes about {_size(wanted)} of {kind}; {_size(left)} are free{others}"
        return ""


def total(needs: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The sum of estimates, by kind of memory."""
    sums: dict[str, int] = {}
    for need in needs:
        for kind, amount in need.items():
            sums[kind] = sums.get(kind, 0) + amount
    return sums


def admission(
    memory: Memory,
    need: Mapping[str, int],
    *,
    staying: Sequence[Mapping[str, int]],
    coming: Sequence[Mapping[str, int]],
    leaving: Sequence[Mapping[str, int]],
    evictable: Sequence[Mapping[str, int]],
    fresh: Sequence[Mapping[str, int]] = (),
    parting: Sequence[Mapping[str, int]] = (),
) -> tuple[Admission, str]:
    """What to do about a version that needs so much, and why there is no room for it, if there is none.

    `staying`, `coming` (being loaded), `leaving` (being unloaded), `evictable`, `fresh` (evictable in a moment) and
    `parting` (gone before it is loaded, in any case) are the estimates of all others.
    """
    used, free = total([*staying, *coming, *leaving, *evictable, *fresh, *parting]), memory.free()

    def shortage(gone: Sequence[Mapping[str, int]]) -> str:
        return memory.shortage(need, free, used=used, coming=total(coming), leaving=total([*parting, *gone]))

    reason = shortage([])
    if not reason:
        return Admission.ADMIT, ""
    if leaving and not shortage(leaving):
        return Admission.WAIT, reason
    if evictable and not shortage([*leaving, *evictable]):
        return Admission.EVICT, reason
    # What is being loaded may fail, and give back what it has.
    return (Admission.REFUSE if shortage([*coming, *leaving, *evictable, *fresh]) else Admission.WAIT), reason


def available_ram(read: Callable[[str], str]) -> int | None:
    """Bytes of RAM that this process can still get: of the machine's, and of its control group's. `None`: unknown.

    `read` gives the text of a file; `OSError` where there is none. Memory that only caches files counts as free.
    """
    bounds = [*_of_machine(read), *(left for _, left in _of_groups(read))]
    return min(bounds) if bounds else None


def ram_limit(read: Callable[[str], str]) -> int | None:
    """Bytes of RAM that the control groups of this process may take; `None` if they set no limit."""
    limits = [limit for limit, _ in _of_groups(read)]
    return min(limits) if limits else None


def _of_machine(read: Callable[[str], str]) -> Iterator[int]:
    for line in _lines(read, "/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _of_groups(read: Callable[[str], str]) -> Iterator[tuple[int, int]]:
    """Limit and what is left of it, for each of the process's control groups, version 2 or 1, up to the root."""
    for line in _lines(read, "/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            files = ("", "memory.max", "memory.current", "inactive_file ")
        elif "memory" in controllers.split(","):
            files = ("/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
        else:
            continue
        below, limit, usage, cache = files
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            folder = CGROUP + below + "".join(f"/{part}" for part in parts[:depth])
            yield from _of_group(read, folder, limit, usage, cache)


def _of_group(read: Callable[[str], str], folder: str, limit: str, usage: str, cache: str) -> Iterator[tuple[int, int]]:
    limits = _lines(read, f"{folder}/{limit}")
    usages = _lines(read, f"{folder}/{usage}")
    if not limits or not usages or not limits[0].isdecimal():  # `max`: there is no limit
        return
    cached = [int(line.split()[1]) for line in _lines(read, f"{folder}/memory.stat") if line.startswith(cache)]
    yield int(limits[0]), max(0, int(limits[0]) - int(usages[0]) + sum(cached))


def _lines(read: Callable[[str], str], path: str) -> list[str]:
    try:
        return read(path).splitlines()
    except OSError:
        return []


def _size(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 10_000_000 else f"{count:,} bytes"
