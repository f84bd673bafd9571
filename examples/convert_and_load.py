"""Quantise a checkpoint and load the result: `python examples/convert_and_load.py [HF_PATH]`.

HF_PATH is a folder or a repository on the Hugging Face Hub with a Qwen3.5 model. The default is
downloaded at the first run (1.8 GB).
"""

import sys
import tempfile
from pathlib import Path

import qwen35_mlx

hf_path = sys.argv[1] if len(sys.argv) > 1 else "Qwen/Qwen3.5-0.8B"

with tempfile.TemporaryDirectory() as folder:
    mlx_path = Path(folder) / "model-4bit"
    qwen35_mlx.convert(hf_path, mlx_path, quantize=True, q_bits=4)
    size = sum(file.stat().st_size for file in mlx_path.glob("*.safetensors"))
    print(f"{size / 1e6:.1f} MB in 4 bits")

    model = qwen35_mlx.load(mlx_path)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    reply = model.generate(messages, thinking=False, max_tokens=50, temperature=0.0)
    print(reply.text)
