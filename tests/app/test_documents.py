"""PDF and Word files in messages."""

import base64
import io
import zipfile
import zlib
from pathlib import Path

import pytest
from docx import Document
from qwen35_chat import document_reader, documents
from qwen35_chat.attachments import attached
from qwen35_chat.completion import files_for
from qwen35_chat.document_reader import OLE, docx_text, pdf_text
from qwen35_chat.file_refused import FileRefusedError
from qwen35_chat.readable_files import read_text_file

from qwen35_mlx.errors import Qwen35Error
from tests.app.drive import chat

# One page, encrypted by pypdf with RC4 and the password "pw".
ENCRYPTED = zlib.decompress(
    base64.b64decode(
        "eNqNU7uO1DAULRAFrmmR3EwJfie2NJpid3YE2kW7mgEaROHE10NWQ7JKPGh3K/6BCkGBxAcgfoIShOALoAVR"
        "IpoVTmZ2GCkUOCnic4/PPT66GRyNJzfZLYEGX799/IwYprjKjtFwiMi9sxPAZNcGu6jmiBzZOTSYR8IUjUYI"
        "StcSee9Ax0Nkv3ANfohFy8ePENmtlmXAbOuo+OfRtlENkbrqRO6CK+xOdRq1aHwSxnFq+EqxDJHYYLliTqGp"
        "lnUeTbaKk1hdfTCsLk2v3nV/udX/AMp5eIxF2tabUIN9gl6dv3x2fOPXxYf66s93117/SPfRizC7sNef//4+"
        "/rJcXHn/5tPbVmzNX8uq3rVaK4jMllnoti3IENmxDXQmyW1YPIVQ5HbLXLKl8gDzeDssNjYZ1zEmLLmRJkm5"
        "ieVJsQhQYzILtnS2dogc4qFxGpzLNOW59YnT0uZOCJM643JljUgUCEu9gERQ6UxGU9AZNykYmqncyBEi96OK"
        "iSTLmcxyTZnLhVeOUiGFh8wr4bjOvAQFElKlrWSJpDTuE++9pYzq7cxPa/CI4hTRzcKJUkJhjzcYixF2lfIv"
        "lsgexrjoYVyxHiaE7mGSbmGhtsUC6i7rWXEO0R6ZVlWc1tVg3RnH4Rs6wyjEtFRcKffCaxCptJqLXPPUytH/"
        "UOLY7pV5fXYScHI5lE2wdeiCSXj8Dwd7hxP0B8QC+TA="
    )
)


def pdf(*pages: str) -> bytes:
    """A PDF file; a page without text stands for a scan."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    kids = []
    for text in pages:
        content = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET" if text else ""
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
        resources = "<< /Font << /F1 3 0 R >> >>"
        box = f"/Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources {resources}"
        objects.append(f"<< {box} /Contents {len(objects)} 0 R >>")
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    out, table = "%PDF-1.4\n", "0000000000 65535 f \n"
    for number, content in enumerate(objects, 1):
        table += f"{len(out):010} 00000 n \n"
        out += f"{number} 0 obj\n{content}\nendobj\n"
    size = len(objects) + 1
    end = f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return f"{out}xref\n0 {size}\n{table}{end}".encode()


def docx() -> bytes:
    document = Document()
    document.add_heading("A title", 2)
    document.add_paragraph("First.")
    table = document.add_table(2, 2)
    for cell, text in zip(table._cells, ("a", "b\nc", "1", "2"), strict=True):
        cell.text = text
    document.add_paragraph("An item", style="List Bullet")
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def test_each_page_of_a_pdf_is_below_its_number() -> None:
    text = pdf_text(pdf("Hello world", "", "third"))
    assert text == "[page 1]\nHello world\n\n[page 2: no text]\n\n[page 3]\nthird"


def test_a_word_file_keeps_its_order_headings_lists_and_tables() -> None:
    assert docx_text(docx()) == "## A title\n\nFirst.\n\n| a | b c |\n| 1 | 2 |\n\n- An item"


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("word/document.xml", b" " * 2_000)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "data", "line"),
    [
        ("pdf", pdf("", ""), "has 2 pages and no text, as scans have: OCR it"),
        ("pdf", ENCRYPTED, "is encrypted: save a copy without a password"),
        ("pdf", b"text", "is no PDF file"),
        ("pdf", pdf("so")[:300], "is no PDF file"),
        ("pdf", b"", "is no PDF file"),
        ("docx", b"text", "is no Word file"),
        ("docx", docx()[:3000], "is no Word file"),
        ("docx", OLE + b"\0" * 600, "is encrypted or older than Word 2007"),
        ("docx", bomb(), "is too large when it is unpacked"),
    ],
)
def test_what_has_no_text_is_one_line(
    kind: str, data: bytes, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "unpacked" in line:
        monkeypatch.setattr(document_reader, "UNPACKED", 1_000)
    with pytest.raises(FileRefusedError, match=line):
        document_reader.READERS[kind](data)


def test_a_process_reads_a_document_and_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.PDF").write_bytes(pdf("Hello"))
    (tmp_path / "scan.pdf").write_bytes(pdf(""))
    assert attached("see @a.PDF.", tmp_path).text.endswith('"a.PDF">\n[page 1]\nHello\n</file>')
    with pytest.raises(FileRefusedError, match=r"^scan\.pdf has 1 page and no text") as refused:
        read_text_file(tmp_path / "scan.pdf", "scan.pdf")
    assert refused.value.reason == "not text"


@pytest.mark.parametrize(
    ("limit", "value", "line"),
    [
        ("SECONDS", 0.001, "takes longer than 0.001 s to read: attach a part of it"),
        ("MOST_CHARACTERS", 3, "has 14 characters of text, more than 3: attach a part of it"),
    ],
)
def test_a_document_beyond_a_limit_is_refused(
    limit: str, value: float, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, limit, value)
    (tmp_path / "a.pdf").write_bytes(pdf("Hello"))
    with pytest.raises(Qwen35Error, match=line):
        attached("@a.pdf", tmp_path)


def test_many_documents_are_refused_before_they_are_read(tmp_path: Path) -> None:
    for number in range(documents.MOST_DOCUMENTS + 1):
        (tmp_path / f"{number}.pdf").touch()
    with pytest.raises(Qwen35Error, match=r"\*\.pdf has more than 50 PDF and Word files"):
        attached("@*.pdf", tmp_path)


async def test_without_the_extra_the_line_names_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "find_spec", lambda _: None)
    Path("a.docx").write_bytes(docx())
    async with chat(home, size=(120, 24)) as at:
        await at.send("sum up @a.docx")
        assert "a.docx needs what reads PDF and Word files" in at.text
        assert "pip install 'qwen35-mlx[documents]'" in at.text
        assert at.typed == "sum up @a.docx"


def test_a_document_is_offered_without_being_read() -> None:
    assert files_for("@pa", ["paper.pdf"])[0].hint == "sends its text"
