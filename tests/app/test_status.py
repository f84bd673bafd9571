from qwen35_chat.fake import done
from qwen35_chat.widgets.status import Status, fitted

from qwen35_mlx.session.events import DraftCounts

PARTS = ["demo", "312 / 4,096 tokens", "48 tok/s", "first token 0.12 s"]


def test_all_parts_at_the_left_and_the_cue_at_the_right() -> None:
    line = fitted(PARTS, "writing", 80)
    assert line.startswith("demo · 312 / 4,096 tokens · 48 tok/s · first token 0.12 s ")
    assert line.endswith(" writing")
    assert len(line) == 80


def test_a_narrow_line_drops_the_last_parts_first() -> None:
    line = fitted(PARTS, "writing", 48)
    assert line.startswith("demo · 312 / 4,096 tokens · 48 tok/s ")
    assert line.endswith(" writing")
    assert len(line) == 48


def test_empty_parts_leave_no_gap() -> None:
    assert fitted(["demo", "", "", ""], "", 20).rstrip() == "demo"


def test_a_name_longer_than_the_line_is_cut_and_the_cue_stays() -> None:
    line = fitted(["a-model-with-a-long-name"], "writing", 20)
    assert line == "a-model-wi…  writing"


def test_no_room_at_all() -> None:
    assert fitted(PARTS, "", 1) == " "
    assert fitted(PARTS, "", 0) == ""


def test_how_many_drafts_were_accepted_stands_at_the_end() -> None:
    bar = Status()
    bar.usage = done().usage
    assert "drafts" not in " ".join(bar.parts)
    bar.accepted = DraftCounts(passes=10, drafted=30, accepted=21)
    assert bar.parts[-1] == "2.1 of 3.0 drafts accepted a pass"
    bar.accepted = DraftCounts(passes=10, drafted=30, accepted=21, speedup=1.437)
    assert bar.parts[-1] == "2.1 of 3.0 drafts accepted a pass, 1.4x as fast"
