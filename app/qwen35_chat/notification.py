"""A notification of the terminal, about a reply that has ended while another window has the focus.

OSC 9 shows a text outside of the terminal. It came with iTerm2, and others have taken it over. The
rest ignores it, or prints it, so that it is written only where it is known.
"""

from collections.abc import Mapping

BELL = "\a"
# Values of TERM_PROGRAM, and beginnings of TERM, which SSH passes on.
PROGRAMS = ("iTerm.app", "WezTerm", "WarpTerminal", "ghostty", "kitty")
TERMS = ("xterm-kitty", "xterm-ghostty", "foot", "wezterm")


def notification(setting: str, text: str, environment: Mapping[str, str]) -> str:
    """What to write to the terminal; "" for nothing.

    Args:
        setting: "auto", "osc9", "bell" or "off".
        text: for people, without control characters.
    """
    if setting == "bell":
        return BELL
    inside_tmux = bool(environment.get("TMUX"))
    known = _knows_osc9(environment) if setting == "auto" else setting == "osc9"
    if not known:
        return ""
    sequence = f"\x1b]9;{text}{BELL}"
    if not inside_tmux:
        return sequence
    # tmux drops what it does not know. This it passes on, if `allow-passthrough` is on.
    return f"\x1bPtmux;{sequence.replace(chr(27), chr(27) * 2)}\x1b\\"


def _knows_osc9(environment: Mapping[str, str]) -> bool:
    """Whether the terminal is known to show such a text."""
    if environment.get("LC_TERMINAL") == "iTerm2":  # SSH passes it on, and tmux leaves it
        return not environment.get("STY")  # of GNU screen
    if environment.get("TMUX") or environment.get("STY"):
        return False
    term = environment.get("TERM", "")
    return environment.get("TERM_PROGRAM") in PROGRAMS or term.startswith(TERMS)
