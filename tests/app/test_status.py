import pytest
from qwen35_chat.fake import done
from qwen35_chat.widgets.segments import EXTRA, line_of, segment
from qwen35_chat.widgets.status import Status, draft_forms, name_forms

from qwen35_mlx.session.events import DraftCounts

PARTS = [
    segment("demo", rank=1),
    segment("312 of 4,096 tokens", "8%", rank=0),
    segment("48 tok/s", "48 t/s", rank=3),
    segment("first token 0.12 s", rank=EXTRA),
    segment("F1 help", rank=2, right=True),
]


def line(width: int) -> str:
    return line_of(PARTS, width).plain


def test_everything_in_full_where_there_is_room() -> None:
    assert line(80).startswith("demo · 312 of 4,096 tokens · 48 tok/s · first token 0.12 s ")
    assert line(80).endswith(" F1 help")
    assert len(line(80)) == 80


def test_every_segment_gets_shorter_before_one_leaves() -> None:
    assert line(29) == "demo · 8% · 48 tok/s  F1 help"
    assert line(28) == "demo · 8% · 48 t/s   F1 help"


def test_the_least_useful_leaves_first_and_the_most_useful_last() -> None:
    assert line(26) == "demo · 8%          F1 help"
    assert line(17) == "demo · 8%        "
    assert line(8) == "8%      "


def test_an_extra_shortens_no_other() -> None:
    assert "first token" not in line(66)
    assert line(66).startswith("demo · 312 of 4,096 tokens · 48 tok/s  ")


def test_a_line_is_as_wide_as_it_was_asked_for_at_any_width() -> None:
    for width in range(120):
        assert line_of(PARTS, width).cell_length == width


def full() -> Status:
    bar = Status()
    bar.model = "mlx-community/Qwen3.5-35B-A3B-MLX-4bit"
    bar.used, bar.context = 200_000, 262_144
    bar.usage = done().usage
    bar.accepted = DraftCounts(passes=10, drafted=30, accepted=21, speedup=1.437)
    bar.modes = [("thinking off", "think off")]
    bar.keys = ["Ctrl+P commands", "Ctrl+N new", "Ctrl+S conversations", "F1 help"]
    return bar


def test_what_matters_stays_at_every_width() -> None:
    bar = full()
    for width in range(36, 201):
        text = line_of(bar.segments, width).plain
        assert len(text) == width
        for least, needed in ((36, "35B-A3B"), (36, "76%"), (36, "think"), (40, "F1 help")):
            assert width < least or needed in text, (width, text)
        keys = ((52, "38 t"), (76, "Ctrl+S conversations"), (90, "Ctrl+N new"))
        for least, needed in (*keys, (100, "2.1"), (110, "1.0 MB")):
            assert width < least or needed in text, (width, text)
    assert "2.1 of 3.0 drafts, 1.4x" in line_of(bar.segments, 180).plain


@pytest.mark.parametrize(("speedup", "shown"), [(None, False), (1.04, False), (1.05, True)])
def test_drafts_are_shown_only_while_they_gain(speedup: float | None, shown: bool) -> None:
    bar = full()
    bar.accepted = DraftCounts(passes=10, drafted=30, accepted=21, speedup=speedup)
    assert ("drafts" in line_of(bar.segments, 200).plain) is shown


def test_the_gauge_changes_its_colour_before_the_context_is_full() -> None:
    bar = full()
    styles: list[set[str]] = []
    for used in (20_000, 200_000, 250_000):
        bar.used = used
        spans = line_of(bar.segments, 100).spans
        styles.append(
            {
                str(s.style)
                for s in spans
                if "secondary" in str(s.style)
                or "warning" in str(s.style)
                or "error" in str(s.style)
            }
        )
    assert styles == [{"$text-secondary"}, {"$text-warning"}, {"bold $text-error"}]


def test_a_load_takes_the_place_of_keys() -> None:
    bar = full()
    bar.state = "no model, Ctrl+L chooses one"
    assert line_of(bar.segments, 120).plain.endswith("no model, Ctrl+L chooses one")
    assert line_of(bar.segments, 30).plain.endswith("  no model")
    assert "F1" not in line_of(bar.segments, 140).plain


def test_what_tells_models_apart_stays_in_the_shortest_name() -> None:
    names = ("mlx-community/Qwen3.5-4B-MLX-4bit", "Qwen3.5-9B-Q4_K_M.gguf", "Qwen3.5-35B-A3B-4bit")
    assert [name_forms(name)[-1] for name in names] == ["4B", "9B", "35B-A3B"]
    assert name_forms("demo") == ("demo", "demo")
    assert name_forms("/folder/my-own-model-with-a-long-name")[-1] == "my-ow…name"


def test_drafts_have_short_forms() -> None:
    counts = DraftCounts(passes=10, drafted=30, accepted=21)
    assert draft_forms(counts) == ("2.1 of 3.0 drafts", "2.1/3.0 drafts", "2.1 drafts")
