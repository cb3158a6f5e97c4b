from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from servable.models.memory import Admission, Memory, admission, available_ram, ram_limit

Bytes = Sequence[int]


def decide(
    need: int,
    *,
    staying: Bytes = (),
    coming: Bytes = (),
    leaving: Bytes = (),
    evictable: Bytes = (),
    fresh: Bytes = (),
    limit: int | None = None,
    free: int | None = None,
) -> Admission:
    def ram(amounts: Bytes) -> list[Mapping[str, int]]:
        return [{"ram": amount} for amount in amounts]

    memory = Memory({} if limit is None else {"ram": limit}, lambda: {} if free is None else {"ram": free})
    decision, reason = admission(
        memory,
        {"ram": need},
        staying=ram(staying),
        coming=ram(coming),
        leaving=ram(leaving),
        evictable=ram(evictable),
        fresh=ram(fresh),
    )
    assert bool(reason) == (decision is not Admission.ADMIT)
    return decision


@pytest.mark.parametrize(
    ("others", "decision"),
    [
        ({}, Admission.ADMIT),
        ({"limit": 10}, Admission.ADMIT),
        ({"limit": 9}, Admission.REFUSE),
        ({"limit": 20, "staying": [10]}, Admission.ADMIT),
        ({"limit": 20, "staying": [11]}, Admission.REFUSE),
        ({"limit": 20, "coming": [11]}, Admission.WAIT),
        ({"limit": 20, "leaving": [11]}, Admission.WAIT),
        ({"limit": 20, "evictable": [11]}, Admission.EVICT),
        ({"limit": 20, "leaving": [5], "evictable": [10]}, Admission.WAIT),
        ({"limit": 20, "leaving": [10], "evictable": [10]}, Admission.WAIT),
        ({"limit": 20, "leaving": [2], "evictable": [15]}, Admission.EVICT),
        ({"limit": 9, "evictable": [5]}, Admission.REFUSE),
        ({"limit": 18, "evictable": [5], "fresh": [10]}, Admission.WAIT),
        ({"limit": 20, "evictable": [10], "fresh": [5]}, Admission.EVICT),
        ({"limit": 9, "fresh": [5]}, Admission.REFUSE),
        ({"limit": 20, "staying": [11], "evictable": [5]}, Admission.REFUSE),
        ({"limit": 20, "staying": [11], "coming": [1], "evictable": [5]}, Admission.REFUSE),
        ({"limit": 20, "staying": [6], "coming": [5], "evictable": [4]}, Admission.WAIT),
        ({"limit": 9, "leaving": [5]}, Admission.REFUSE),
        ({"free": 10}, Admission.ADMIT),
        ({"free": 9}, Admission.REFUSE),
        ({"free": 9, "staying": [100]}, Admission.REFUSE),
        ({"free": 19, "coming": [10]}, Admission.WAIT),
        ({"free": 20, "coming": [10]}, Admission.ADMIT),
        ({"free": 0, "leaving": [10]}, Admission.WAIT),
        ({"free": 5, "evictable": [5]}, Admission.EVICT),
    ],
)
def test_admission(others: dict[str, object], decision: Admission) -> None:
    assert decide(10, **others) is decision  # type: ignore[arg-type]


def test_kinds_of_memory_are_counted_apart() -> None:
    memory = Memory({"gpu": 16})
    others: dict[str, list[Mapping[str, int]]] = {"coming": [], "leaving": [], "evictable": []}
    decision, reason = admission(memory, {"ram": 12, "gpu": 10}, staying=[{"ram": 100, "gpu": 7}], **others)
    assert decision is Admission.REFUSE
    assert reason == "it takes about 10 bytes of gpu; 7 bytes of at most 16 bytes are taken"
    assert admission(memory, {"ram": 12, "gpu": 9}, staying=[{"ram": 100, "gpu": 7}], **others)[0] is Admission.ADMIT


MACHINE = {"/proc/meminfo": "MemTotal: 100 kB\nMemAvailable:      50 kB\n"}
V2 = "/sys/fs/cgroup/a/b/memory"
V1 = "/sys/fs/cgroup/memory/a/memory"


@pytest.mark.parametrize(
    ("files", "available", "limit"),
    [
        ({}, None, None),
        (MACHINE, 51200, None),
        ({**MACHINE, "/proc/self/cgroup": "0::/a/b\n", f"{V2}.max": "max\n", f"{V2}.current": "1000\n"}, 51200, None),
        ({**MACHINE, "/proc/self/cgroup": "0::/a/b\n", f"{V2}.max": "3000\n", f"{V2}.current": "1000\n"}, 2000, 3000),
        (
            {
                "/proc/self/cgroup": "0::/a/b\n",
                f"{V2}.max": "3000\n",
                f"{V2}.current": "2500\n",
                f"{V2}.stat": "anon 1\ninactive_file 700\nactive_file 5\n",
            },
            1200,
            3000,
        ),
        (
            {
                "/proc/self/cgroup": "0::/a/b\n",
                "/sys/fs/cgroup/a/memory.max": "900\n",
                "/sys/fs/cgroup/a/memory.current": "800\n",
            },
            100,
            900,
        ),
        (
            {
                "/proc/self/cgroup": "0::/a/b\n",
                f"{V2}.max": "3000\n",
                f"{V2}.current": "2950\n",
                "/sys/fs/cgroup/a/memory.max": "900\n",
                "/sys/fs/cgroup/a/memory.current": "800\n",
                "/sys/fs/cgroup/memory.max": "max\n",
                "/sys/fs/cgroup/memory.current": "5000\n",
            },
            50,
            900,
        ),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": "5", "/sys/fs/cgroup/memory.current": "9"}, 0, 5),
        (
            {
                "/proc/self/cgroup": "12:cpu,cpuacct:/x\n4:memory:/a\n",
                f"{V1}.limit_in_bytes": "9000\n",
                f"{V1}.usage_in_bytes": "8000\n",
                f"{V1}.stat": "total_inactive_file 500\n",
            },
            1500,
            9000,
        ),
    ],
)
def test_what_control_groups_leave(files: dict[str, str], available: int | None, limit: int | None) -> None:
    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    assert available_ram(read) == available
    assert ram_limit(read) == limit
