"""Which requests go through a tower together: those of several calls, in turn, up to a size, after a bounded wait.

The size is counted in requests and in what they cost: tokens for the `llm` tower. Calls take turns request by request,
so that a call with one request does not wait for all of a call with 256. And no batch is to take longer than
`LONGEST_S`, as far as the last ones tell: where a language model needs a second for one prompt, thirty together would
all miss their deadline, and be no faster.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

LONGEST_S = 1.0  # of a batch of more than one request
RISE = 0.1  # weight of a batch that was faster than expected; a slower one counts at once


@dataclass(eq=False)
class Job:
    """A call, or the part of it that one worker answers.

    Attributes:
        number: names the job in answers.
        rows: the numbers of its requests within the call.
        requests: those requests.
        costs: what each counts in a batch.
        deadline, arrived: s of the monotonic clock, which all processes of a machine share.
        answers: by place in `rows`, as they are made.
    """

    number: int
    rows: list[int]
    requests: list[Any]
    costs: list[int]
    deadline: float
    arrived: float
    answers: list[Any] = field(default_factory=list)
    taken: int = 0
    started: float | None = None

    def __post_init__(self) -> None:
        self.answers = [None] * len(self.rows)


Batch = list[tuple[Job, int]]  # a job, and a place in its `rows`


class Batcher:
    """Jobs that wait.

    Args:
        rows: most requests of a batch.
        cost: most that the requests of a batch cost together; one that costs more goes alone.
        wait_s: how long a batch that is not full waits for more.
    """

    def __init__(self, rows: int, cost: int, wait_s: float) -> None:
        self._rows, self._cost, self._wait_s = rows, cost, wait_s
        self._jobs: deque[Job] = deque()
        self._waiting = self._costs = 0
        self._speed = 0.0  # of batches, in cost a second; at first one request goes alone

    def __len__(self) -> int:
        return self._waiting

    def add(self, job: Job) -> None:
        """Let a job with one request at least wait."""
        self._jobs.append(job)
        self._waiting += len(job.rows)
        self._costs += sum(job.costs)

    @property
    def full(self) -> bool:
        """Whether waiting for more would make no larger batch."""
        return self._waiting >= self._rows or self._costs >= self._most

    def took(self, cost: int, seconds: float) -> None:
        """Learn from a batch."""
        speed = cost / max(seconds, 1e-9)
        self._speed = min(speed, self._speed + RISE * (speed - self._speed)) if self._speed else speed

    @property
    def _most(self) -> float:
        """What a batch may cost now."""
        return min(self._cost, LONGEST_S * self._speed)

    def patience(self, now: float) -> float | None:
        """Seconds to wait for more before `take`: 0 for a full batch, None where nothing waits."""
        if not self._jobs:
            return None
        if self.full:
            return 0.0
        return max(0.0, min(job.arrived for job in self._jobs) + self._wait_s - now)

    def take(self, now: float) -> tuple[Batch, list[Job]]:
        """The next batch, and the jobs whose deadline has passed: what they still wanted is dropped."""
        late = [job for job in self._jobs if job.deadline <= now]
        for job in late:
            self.drop(job)
        batch: Batch = []
        cost = 0
        while self._jobs and len(batch) < self._rows:
            job = self._jobs[0]
            if batch and cost + job.costs[job.taken] > self._most:
                break
            cost += job.costs[job.taken]
            batch.append((job, job.taken))
            self._count(job, job.taken + 1)
            job.started = job.started or now
            if job.taken == len(job.rows):
                self._jobs.popleft()
            else:
                self._jobs.rotate(-1)
        return batch, late

    def drop(self, job: Job) -> None:
        """Forget what is left of a job."""
        if job in self._jobs:
            self._count(job, len(job.rows))
            self._jobs.remove(job)

    def _count(self, job: Job, taken: int) -> None:
        self._waiting -= taken - job.taken
        self._costs -= sum(job.costs[job.taken : taken])
        job.taken = taken
