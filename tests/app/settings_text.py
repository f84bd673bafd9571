"""A settings file as a user may write it."""

from pathlib import Path

FILE = Path("settings.toml")
WRITTEN = """\
# mine

model = "org/repo"  # the small one
thinking_view = "open"
folders = ["~/models", "/data/#1"]  # two

# a bit of taste
[sampling]
temperature = 0.5 # warm
top_k = 10

[keys]
new = "ctrl+y"
"""
