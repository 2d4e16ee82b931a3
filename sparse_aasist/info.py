"""What `sparse-aasist info` prints: versions, build, devices and the backend of each op."""

from __future__ import annotations

import platform

from sparse_aasist import __version__
from sparse_aasist._extension import build_info


def main_text() -> str:
    """Return the report as text, one fact a line."""
    sections = (
        ("versions", _versions()),
        ("build", _build()),
        ("devices", _devices()),
        ("ops", _ops()),
    )
    lines = []
    for title, facts in sections:
        width = max(len(name) for name in facts)
        lines.append(title)
        lines += [f"  {name.ljust(width)}  {value}" for name, value in facts.items()]
    return "\n".join(lines)


def _versions() -> dict[str, str]:
    import numpy
    import torch

    return {
        "sparse-aasist": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _build() -> dict[str, str]:
    info = build_info()
    if info["reason"] is None:
        del info["reason"]
    return {name: _value(value) for name, value in info.items()}


def _devices() -> dict[str, str]:
    import torch

    devices = {"cpu": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    if torch.version.cuda is None:
        return devices | {"cuda": "none (torch is a CPU build)"}
    if not torch.cuda.is_available():
        return devices | {"cuda": f"none visible (torch has CUDA {torch.version.cuda})"}
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        name = torch.cuda.get_device_name(index)
        devices[f"cuda:{index}"] = f"{name}, compute capability {major}.{minor}"
    return devices


def _ops() -> dict[str, str]:
    from sparse_aasist.ops import backend_report

    return backend_report()


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value)
    return "none" if value is None else str(value)
