"""Where a result comes from: the machine. The code's version is :func:`sqr.engine.startup.git_state`."""

from __future__ import annotations

from ..benchmarks.reporting import describe_machine


def machine() -> str:
    """Processor, cores, threads and versions on one line."""
    found = describe_machine("cpu")
    return (
        f"{found['processor']}, {found['cores']} cores, {found['threads']} thread{'s' * (found['threads'] > 1)}, "
        f"PyTorch {found['pytorch']}, Python {found['python']}"
    )
