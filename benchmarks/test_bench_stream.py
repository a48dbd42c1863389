"""One step a call, the state kept in between."""

from typing import Any

from fusedrnn.bench import Job

MODES = ("stream",)


def test_step(benchmark: Any, job: Job) -> None:
    benchmark(job.call)
