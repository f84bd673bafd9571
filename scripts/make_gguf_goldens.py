"""Make tests/checkpoint/gguf/converter.json: what llama.cpp's converter writes for two goldens.

    pip install torch transformers==5.23.0 sentencepiece
    python -m scripts.make_gguf_goldens LLAMA_CPP

LLAMA_CPP is a source tree of llama.cpp, as in the source package of llama-cpp-python 0.3.36. Kept
are the metadata of the network, and type, shape and checksum of every tensor.
"""

import argparse
import json
import runpy
import shutil
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any
from unittest import mock

from qwen35_mlx.checkpoint.gguf.tokenizer import text_files

ROOT = Path(__file__).parent.parent
CASES = [(name, kind) for name in ("dense-yarn", "moe") for kind in ("BF16", "Q8_0")]
# The converter wants a tokenizer; that of the goldens does not matter.
TOKENIZER = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["a", "b", "ab", "<|im_end|>"],
    "tokenizer.ggml.token_type": [1, 1, 1, 3],
    "tokenizer.ggml.merges": ["a b"],
}


def convert(llama_cpp: Path, source: Path, kind: str, out: Path) -> None:
    """Run the converter in this process, with a name for the tokenizer that it does not know."""
    from conversion.base import TextModel  # pyright: ignore[reportMissingImports]

    script = llama_cpp / "convert_hf_to_gguf.py"
    arguments = [str(script), str(source), "--outtype", kind.lower(), "--outfile", str(out)]
    with (
        mock.patch.object(TextModel, "get_vocab_base_pre", return_value="qwen35"),
        mock.patch.object(sys, "argv", arguments),
    ):
        runpy.run_path(str(script), run_name="__main__")


def summary(file: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    reader = GGUFReader(file)
    metadata = {
        key: field.contents()
        for key, field in reader.fields.items()
        if not key.startswith(("GGUF.", "tokenizer.", "general.name"))
    }
    tensors = {
        tensor.name: f"{tensor.tensor_type.name} {tensor.shape.tolist()[::-1]} "
        f"{zlib.crc32(tensor.data.tobytes()):08x}"
        for tensor in reader.tensors
    }
    return {"metadata": metadata, "tensors": tensors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("llama_cpp", type=Path)
    llama_cpp = parser.parse_args().llama_cpp.resolve()
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        text = text_files(TOKENIZER, Path("demo.gguf"))
        for name, kind in CASES:
            source = Path(temporary, name, kind)
            shutil.copytree(ROOT / "tests/goldens" / name, source)
            (source / "expected.safetensors").unlink()
            (source / "tokenizer.json").write_text(text.tokenizer or "")
            (source / "tokenizer_config.json").write_text(json.dumps(text.tokenizer_config))
            out = Path(temporary, "out.gguf")
            convert(llama_cpp, source, kind, out)
            found[f"{name} {kind}"] = summary(out)
    target = ROOT / "tests/checkpoint/gguf/converter.json"
    target.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
