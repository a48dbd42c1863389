"""Whole sequences: inference and training."""

from typing import Any

from fusedrnn.bench import Job

MODES = ("infer", "train")


def test_layer(benchmark: Any, job: Job) -> None:
    benchmark(job.call)
