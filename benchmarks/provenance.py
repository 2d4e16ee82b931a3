"""What figures depend on: machine, versions, settings, commit. Slow to ask, so once per run."""

from __future__ import annotations

import datetime
import platform
import subprocess

import pytest
import torch

from sparse_aasist import build_info
from sparse_aasist._extension import simd_level


def provenance(device: str, config: pytest.Config) -> dict[str, str]:
    """Return the columns of a results file that all benchmarks of a run share."""
    hook = config.hook
    commit = hook.pytest_benchmark_generate_commit_info(config=config)
    shared = {
        "torch": str(torch.__version__),
        # The ops may have been copied without the module that knows.
        "compiler": build_info().get("compiler", "unknown"),
        "commit": commit["id"][:12] + ("+" if commit["dirty"] else ""),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }
    if device == "cuda":
        return shared | {
            "device": torch.cuda.get_device_name(),
            "driver": _gpu_driver(),
            "simd": "",
            "threads": "",
        }
    processor = hook.pytest_benchmark_generate_machine_info(config=config)["cpu"]
    return shared | {
        "device": processor.get("brand_raw", ""),
        "driver": platform.release(),
        "simd": simd_level(),
        "threads": str(torch.get_num_threads()),
    }


def _gpu_driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.split()[0] if answer.strip() else "unknown"
