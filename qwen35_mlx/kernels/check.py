"""The former name of `python -m qwen35_mlx.check`, kept working."""

import runpy

if __name__ == "__main__":
    runpy.run_module("qwen35_mlx.check", run_name="__main__")
