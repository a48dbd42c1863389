"""Hold every library to an instruction set. Most of them look once, when loaded, so a new process is started."""

import os
import subprocess
import sys
from typing import Any

MARK = "FUSEDRNN_BENCH_ISA"

# What each library wants to be told; NumPy's BLAS goes by processors.
_ENVIRONMENT = {
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "DNNL_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "OPENBLAS_CORETYPE": "Haswell",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    },
    "sse2": {
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "DNNL_MAX_CPU_ISA": "SSE41",
        "ATEN_CPU_CAPABILITY": "default",
        "OPENBLAS_CORETYPE": "Nehalem",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2",
    },
}
ISAS = tuple(_ENVIRONMENT)


def forced() -> str | None:
    """The instruction set that this process is held to."""
    return os.environ.get(MARK)


def run(isa: str, options: dict[str, Any], command: tuple[str, ...]) -> int:
    """Run Python with this command and these options in a process held to an instruction set; its exit status."""
    extra = dict(_ENVIRONMENT[isa])
    extra["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {extra['XLA_FLAGS']}".strip()
    environment = {**os.environ, **extra, "FUSEDRNN_ISA": isa, MARK: isa}
    arguments = [sys.executable, *command, "--isa", isa, *_arguments(options)]
    try:
        return subprocess.run(arguments, env=environment, check=False).returncode
    except KeyboardInterrupt:  # the other process got it, too, and has written what it had
        return 130


def _arguments(options: dict[str, Any]) -> list[str]:
    """Parsed options as they are written on the command line."""
    arguments = []
    for name, value in options.items():
        if value is True:
            arguments.append(f"--{name}")
        elif isinstance(value, list | tuple):
            arguments.append(f"--{name}={','.join(map(str, value))}")
        elif value is not None and value is not False:
            arguments.append(f"--{name}={value}")
    return arguments
