"""Measuring and printing, as every benchmark does it."""

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import mlx.core as mx


def device() -> dict[str, str]:
    """What the figures were measured on."""
    gpu = mx.default_device() != mx.cpu
    return {
        "device": str(mx.device_info().get("device_name", "GPU")) if gpu else "CPU",
        "machine": f"{platform.system()} {platform.machine()}",
        "mlx": version("mlx"),
    }


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of the same keys as columns."""
    if not rows:
        return

    def shown(value: Any) -> str:
        return f"{value:,.4g}" if isinstance(value, float) else "-" if value is None else str(value)

    columns = {key: [key, *(shown(row.get(key)) for row in rows)] for key in rows[0]}
    widths = {key: max(map(len, cells)) for key, cells in columns.items()}
    for i in range(len(rows) + 1):
        cells = [cells[i].ljust(widths[key]) for key, cells in columns.items()]
        print("  ".join(cells).rstrip(), flush=True)


def json_line(name: str, rows: Sequence[dict[str, Any]], **more: Any) -> None:
    """The last line of every benchmark."""
    print(json.dumps({"benchmark": name, **device(), **more, "rows": list(rows)}), flush=True)
