"""The process that reads one document: `python -m qwen35_chat.document_reader pdf < paper.pdf`.

It writes one JSON object: {"text": ...} or {"error": ..., "reason": ...}. The libraries read a
stranger's file, so they do it in a process that may be ended, with bounded memory.
"""

import json
import re
import sys
import zipfile
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING

from qwen35_chat.file_refused import FileRefusedError
from qwen35_mlx.terminal import write_output

if TYPE_CHECKING:
    from docx.table import Table
    from docx.text.paragraph import Paragraph

MEMORY = 4 << 30  # bytes of address space
UNPACKED = 300_000_000  # bytes of a Word file's parts
PASSWORD_ERROR = 4  # of PDFium
OLE = b"\xd0\xcf\x11\xe0"  # begins Word files before 2007, and encrypted ones
# PDFium writes one of these for the hyphen of a word that goes on in the next line.
_HYPHEN = re.compile("[\x02\ufffe\uffff]\n?")
_HEADING = re.compile(r"Heading ([1-6])")


def pdf_text(data: bytes) -> str:
    """The text of a PDF file, each page below its number.

    Raises:
        FileRefusedError: there is none, or it cannot be read. The message goes after the name.
    """
    from pypdfium2 import PdfDocument, PdfiumError

    try:
        document = PdfDocument(data)
        pages = [_page_text(page.get_textpage().get_text_range()) for page in document]
    except PdfiumError as error:
        if getattr(error, "err_code", None) == PASSWORD_ERROR:
            line = "is encrypted: save a copy without a password and attach that"
        else:
            line = "is no PDF file that can be read"
        raise FileRefusedError(line, "unreadable") from None
    if not any(pages):
        number = f"{len(pages):,} {'page' if len(pages) == 1 else 'pages'}"
        raise FileRefusedError(
            f"has {number} and no text, as scans have: OCR it first, with ocrmypdf for instance",
            "not text",
        )
    return "\n\n".join(
        f"[page {number}]\n{text}" if text else f"[page {number}: no text]"
        for number, text in enumerate(pages, 1)
    )


def _page_text(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    return _HYPHEN.sub("", text).strip()


def docx_text(data: bytes) -> str:
    """The text of a Word file: paragraphs, headings as in Markdown, and rows of tables.

    Raises:
        FileRefusedError: as for `pdf_text`.
    """
    from docx import Document
    from docx.text.paragraph import Paragraph

    if data.startswith(OLE):
        line = "is encrypted or older than Word 2007: save it as .docx without a password"
        raise FileRefusedError(line, "unreadable")
    try:
        with zipfile.ZipFile(BytesIO(data)) as parts:
            if sum(part.file_size for part in parts.infolist()) > UNPACKED:
                raise FileRefusedError("is too large when it is unpacked", "too large")
        document = Document(BytesIO(data))
        blocks = [
            _paragraph(block) if isinstance(block, Paragraph) else _table(block)
            for block in document.iter_inner_content()
        ]
    except FileRefusedError:
        raise
    except Exception:  # of many kinds, from the archive, the XML or the parts
        raise FileRefusedError("is no Word file that can be read", "unreadable") from None
    if not any(blocks):
        raise FileRefusedError("has no text", "not text")
    return "\n\n".join(block for block in blocks if block)


def _paragraph(paragraph: "Paragraph") -> str:
    text = paragraph.text.strip()
    style = (paragraph.style.name or "") if paragraph.style is not None else ""
    if text and (level := _HEADING.fullmatch(style)):
        return f"{'#' * int(level.group(1))} {text}"
    return f"- {text}" if text and style.startswith("List") else text


def _table(table: "Table") -> str:
    rows = [[" ".join(cell.text.split()) for cell in row.cells] for row in table.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows if any(row))


READERS = {"pdf": pdf_text, "docx": docx_text}


def main() -> None:
    """Read standard input as a document of the kind that is named."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        answer = {"text": READERS[sys.argv[1]](sys.stdin.buffer.read())}
    except FileRefusedError as refused:
        answer = {"error": str(refused), "reason": refused.reason}
    except MemoryError:
        answer = {"error": "needs too much memory", "reason": "too large"}
    write_output(json.dumps(answer))


if __name__ == "__main__":
    main()
