"""Peak memory and speed of the converter: `python -m scripts.benchmarks.convert`.

Writes a sparse model of about 3 GB to a temporary folder and converts it, each time in a process of
its own. Its largest tensor (an expert stack of 671 MB) is larger than the memory allowed to the
converter. Peak memory is the largest resident set of the process, anonymous and file pages
together, above that of an interpreter that only imports the same modules. Prints a table and ends
in one JSON line; exits with 1 if a conversion exceeds the limit.

This process imports no MLX and stays small, because on Linux the peak of a child process starts at
that of its parent.
"""

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LIMIT_MB = 600

TEXT_CONFIG = {
    "hidden_size": 2048,
    "num_hidden_layers": 2,
    "full_attention_interval": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_key_heads": 8,
    "linear_num_value_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 640,
    "shared_expert_intermediate_size": 640,
    "vocab_size": 32768,
    "max_position_embeddings": 4096,
    "mtp_num_hidden_layers": 1,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
}

# (name, layout of the source, options)
CASES: list[tuple[str, str, list[str]]] = [
    ("bf16 -> bf16", "bf16", []),
    ("bf16 -> 4-bit affine", "bf16", ["-q"]),
    ("bf16 -> 8-bit affine", "bf16", ["-q", "--q-bits", "8"]),
    ("bf16 -> mxfp4", "bf16", ["-q", "--q-mode", "mxfp4"]),
    ("fp8 -> 4-bit affine", "fp8", ["-q"]),
]


def write_checkpoint(folder: Path, layout: str) -> None:
    """Write the source checkpoint: trunk experts fused, or one by one with layout "fp8".

    The experts of the MTP head are always one by one, as published.
    """
    import mlx.core as mx

    from qwen35_mlx.model.config import ModelConfig
    from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors

    config: dict[str, Any] = {"model_type": "qwen3_5_moe", "text_config": TEXT_CONFIG}
    if layout == "fp8":
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("")
    model = ModelConfig.from_dict(config)
    shapes: dict[str, tuple[int, ...]] = {}  # under published names
    for name, shape in (trunk_tensors(model) | mtp_tensors(model)).items():
        published = (
            name.replace("model.", "model.language_model.", 1) if "mtp" not in name else name
        )
        published = published.replace("switch_mlp", "experts")
        if ".experts." not in published:
            shapes[published] = (shape[0], 1, shape[1]) if "conv1d" in published else shape
        elif layout == "fp8" or "mtp" in published:
            base, _, part = published.partition(".experts.")
            shapes |= {f"{base}.experts.{i}.{part}": shape[1:] for i in range(shape[0])}
        elif "down_proj" in published:
            shapes[published.removesuffix(".weight")] = shape
        elif "gate_proj" in published:
            fused = published.replace("gate_proj.weight", "gate_up_proj")
            shapes[fused] = (shape[0], 2 * shape[1], shape[2])
    mx.random.seed(0)
    noise = (mx.random.normal((32 << 20,)) * 0.02).astype(mx.bfloat16)
    noise8 = memoryview(mx.to_fp8(noise))  # pyright: ignore[reportArgumentType]
    noise16 = memoryview(noise.view(mx.uint16)).cast("B")  # pyright: ignore[reportArgumentType]
    header: dict[str, Any] = {}
    begin = 0
    not_fp8 = ("embed", "conv1d", "in_proj_a", "in_proj_b", "mtp.fc", "gate.weight")
    for name, shape in list(shapes.items()):
        fp8 = layout == "fp8" and len(shape) == 2 and not any(part in name for part in not_fp8)
        tensors = [(name, "F8_E4M3" if fp8 else "BF16", shape)]
        if fp8:
            scales = (-(-shape[0] // 128), -(-shape[1] // 128))
            tensors.append((name + "_scale_inv", "BF16", scales))
        for tensor, dtype, size in tensors:
            end = begin + (1 if dtype == "F8_E4M3" else 2) * math.prod(size)
            header[tensor] = {"dtype": dtype, "shape": size, "data_offsets": [begin, end]}
            begin = end
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in header.values():
            source = noise8 if entry["dtype"] == "F8_E4M3" else noise16
            start, end = entry["data_offsets"]
            for offset in range(start, end, len(source)):
                file.write(source[: min(len(source), end - offset)])
    (folder / "config.json").write_text(json.dumps(config))


def peak_memory(*arguments: str) -> tuple[float, float]:
    """Run Python with these arguments; returns its peak resident set in MB, and seconds."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.exit(output.read().decode())
    unit = 1 if platform.system() == "Darwin" else 1024
    return usage.ru_maxrss * unit / 1e6, time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tmp", help="folder on a disk with 9 GB free")
    parser.add_argument("--make", nargs=2, metavar=("FOLDER", "LAYOUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        write_checkpoint(Path(options.make[0]), options.make[1])
        return 0
    imports = "import mlx.core as mx, tqdm, qwen35_mlx.convert; mx.eval(mx.zeros(1) + 1)"
    baseline, _ = peak_memory("-c", imports)
    rows: list[dict[str, Any]] = []
    print(f"baseline {baseline:.0f} MB\n")
    print(f"{'case':24} {'source GB':>9} {'peak MB':>8} {'above MB':>9} {'s':>7} {'GB/s':>6}")
    with tempfile.TemporaryDirectory(dir=options.tmp) as folder:
        for case, layout, arguments in CASES:
            source, out = Path(folder) / layout, Path(folder) / "out"
            if not source.exists():
                peak_memory("-m", "scripts.benchmarks.convert", "--make", str(source), layout)
            command = ("--hf-path", str(source), "--mlx-path", str(out), *arguments)
            peak, seconds = peak_memory("-m", "qwen35_mlx.convert", *command)
            size = (source / "model.safetensors").stat().st_size / 1e9
            row = {"case": case, "source_gb": size, "peak_mb": peak, "above_mb": peak - baseline}
            rows.append(row | {"seconds": seconds})
            print(
                f"{case:24} {size:9.2f} {peak:8.0f} {peak - baseline:9.0f} {seconds:7.1f} "
                f"{size / seconds:6.2f}",
                flush=True,
            )
            shutil.rmtree(out)
    worst = max(row["above_mb"] for row in rows)
    result = {"bench": "convert", "baseline_mb": baseline, "bar_mb": LIMIT_MB, "cases": rows}
    print("\n" + json.dumps(result | {"worst_mb": worst, "ok": worst < LIMIT_MB}))
    return 0 if worst < LIMIT_MB else 1


if __name__ == "__main__":
    sys.exit(main())
