"""GGUF files of Qwen3.5 (`qwen35`, `qwen35moe`), as llama.cpp reads and writes them."""
