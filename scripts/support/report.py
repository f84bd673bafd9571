"""Results of a benchmark: a table for people and one JSON line for programs."""

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import mlx.core as mx


def device() -> dict[str, str]:
    """Device, machine and MLX version of this run."""
    gpu = mx.default_device() != mx.cpu
    return {
        "device": str(mx.device_info().get("device_name", "GPU")) if gpu else "CPU",
        "machine": f"{platform.system()} {platform.machine()}",
        "mlx": version("mlx"),
    }


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows, all of the same keys, with one column per key."""
    if not rows:
        return

    def cell(value: Any) -> str:
        return f"{value:,.4g}" if isinstance(value, float) else "-" if value is None else str(value)

    columns = {key: [key, *(cell(row.get(key)) for row in rows)] for key in rows[0]}
    widths = {key: max(map(len, cells)) for key, cells in columns.items()}
    for i in range(len(rows) + 1):
        cells = [cells[i].ljust(widths[key]) for key, cells in columns.items()]
        print("  ".join(cells).rstrip(), flush=True)


def print_json(name: str, rows: Sequence[dict[str, Any]], **more: Any) -> None:
    """Print the last line of a benchmark: its name, `device()`, `more` and the rows."""
    print(json.dumps({"benchmark": name, **device(), **more, "rows": list(rows)}), flush=True)
