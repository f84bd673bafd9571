"""The table of docs/prompt-injection.md: `python -m scripts.prompt_injection`.

Puts every control token of Qwen3.5 into every place of a prompt where others write, with this
package and with mlx-lm, and counts the control tokens that come out. Prints Markdown, then one JSON
line.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from mlx_lm.tokenizer_utils import load as load_mlx_lm_tokenizer

from qwen35_mlx import demo
from qwen35_mlx.text.template import ChatTemplate
from qwen35_mlx.text.text_files import TextFiles
from qwen35_mlx.text.tokenizer import Tokenizer
from scripts.support.injection import FORGED_TURN, PLACES, TOKENS, Prompt, forged

TEMPLATES = Path(__file__).parents[1] / "tests" / "templates"
COLUMNS = (*TOKENS, FORGED_TURN)


def main() -> None:
    """Print the table and the JSON line."""
    tokenizer = Tokenizer.from_files(TextFiles.from_folder(demo.folder()))
    peer = load_mlx_lm_tokenizer(demo.folder())
    rows: list[dict[str, object]] = []
    for file in sorted(TEMPLATES.glob("*.jinja")):
        source = file.read_text()
        template = ChatTemplate(source)

        def ours(prompt: Prompt, template: ChatTemplate = template) -> Sequence[int]:
            rendered = template.render(
                prompt.messages, tools=prompt.tools, control_tokens=tokenizer.control_tokens
            )
            return tokenizer.encode_prompt(rendered)

        def theirs(prompt: Prompt, source: str = source) -> Sequence[int]:
            return peer.apply_chat_template(
                list(prompt.messages),
                tools=prompt.tools,
                chat_template=source,
                add_generation_prompt=True,
                return_dict=False,
            )

        for place in PLACES:
            rows.append(
                {
                    "template": file.stem,
                    "place": place,
                    "ours": _forged(place, ours, tokenizer.control_tokens.ids),
                    "mlx-lm": _forged(place, theirs, tokenizer.control_tokens.ids),
                }
            )
    print(_markdown(rows))
    print(json.dumps({"check": "prompt injection", "rows": rows}))


def _forged(
    place: str, encode: Callable[[Prompt], Sequence[int]], control: frozenset[int]
) -> list[str]:
    """The texts that became at least one control token in this place."""
    harmless = encode(PLACES[place]("harmless"))
    return [
        "a forged turn" if text == FORGED_TURN else text
        for text in COLUMNS
        if forged(encode(PLACES[place](text)), harmless, control) > 0
    ]


def _markdown(rows: Sequence[dict[str, object]]) -> str:
    """How many of the texts became a control token, and which in this package."""
    names = [column for column in rows[0] if column != "place"]
    lines = [f"| {' | '.join(['place', *names])} |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        found = {name: row[name] for name in ("ours", "mlx-lm")}
        cells = [str(row["place"]), str(row["template"])]
        for texts in found.values():
            assert isinstance(texts, list)
            named = f": {', '.join(f'`{text}`' for text in texts)}" if 0 < len(texts) < 5 else ""
            cells.append(f"{len(texts)} of {len(COLUMNS)}{named}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
