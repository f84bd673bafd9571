"""Names of models on the Hugging Face Hub, as users write them. No MLX."""

import re
from dataclasses import dataclass

_NAME = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    # A quantisation, or a file: each part a printable name that is not hidden.
    r"(?::(?P<quantization>[\w.-]+)|/(?P<file>(?:[^/\\.][^/\\]*/)*[^/\\.][^/\\]*\.gguf))?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class HubName:
    """`org/repo`, `org/repo:Q4_K_M` or `org/repo/file.gguf`.

    The second form is that of llama.cpp's option `-hf`.

    Attributes:
        quantization: of a GGUF file in the repository, in capitals; "" for none.
        file: a GGUF file in the repository, with `/` between folders; "" for none.
    """

    repository: str
    quantization: str = ""
    file: str = ""

    @classmethod
    def parse(cls, name: str) -> "HubName | None":
        """The parts of a name; None if it has another form."""
        match = _NAME.fullmatch(name)
        if match is None or not name.isprintable():
            return None
        return cls(match["repository"], (match["quantization"] or "").upper(), match["file"] or "")
