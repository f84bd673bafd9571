"""What terminals send, and bytes made of it by chance."""

import random

# Bytes of keys, with the names and the texts that they stand for. Numbers are those of the kitty
# protocol and of xterm's modifyOtherKeys, on keyboards of several scripts.
KEYS: dict[bytes, list[str]] = {
    # Text of input methods, as a report of any length or as text.
    b"\x1b[32;;25105:20204:20170:22825:19979u": [*"我们今天下"],
    b"\x1b[0;;20320u": ["你"],
    b"\x1b[0;1;20013:25991u": [*"中文"],
    b"\x1b[;;129489:8205:128640u": ["🧑", "\u200d", "🚀"],
    b"\x1b[97;;229u": ["å"],
    b"\x1b[113;7;64u": ["@"],  # AltGr
    b"\x1b[50;4;8364u": ["€"],
    "我们今天".encode(): [*"我们今天"],
    "\u3000가\u200cあ𠮷é".encode(): ["\u3000", "가", "\u200c", "あ", "𠮷", "é"],
    # Shortcuts, of which the base layout counts, with any locks.
    b"\x1b[99;5u": ["ctrl+c"],
    b"\x1b[1089;5u": ["ctrl+c"],
    b"\x1b[1089::99;5u": ["ctrl+c"],
    b"\x1b[1057:1057:99;5u": ["ctrl+c"],
    b"\x1b[1081::113;5u": ["ctrl+q"],
    b"\x1b[968;5u": ["ctrl+c"],
    b"\x1b[1489;5u": ["ctrl+c"],
    b"\x1b[12618;5u": ["ctrl+c"],
    b"\x1b[99;69u": ["ctrl+c"],
    b"\x1b[99;133u": ["ctrl+c"],
    b"\x1b[113::97;5u": ["ctrl+q"],  # the key of a French keyboard, not of the English one
    b"\x1b[99;6u": ["ctrl+shift+c"],
    b"\x1b[118;9u": ["super+v"],
    b"\x1b[99;13u": ["ctrl+super+c"],
    b"\x1b[27;5;1089~": ["ctrl+c"],
    b"\x1b[27;6;95~": ["ctrl+underscore"],
    b"\x1b[45:95;6u": ["ctrl+underscore"],
    b"\x1b[47;5u": ["ctrl+underscore"],
    b"\x1f": ["ctrl+underscore"],
    # The same keys in every terminal.
    b"\x1b[105;5u": ["tab"],
    b"\x1b[109;5u": ["enter"],
    b"\x1b[104;5u": ["backspace"],
    b"\x1b[91;5u": ["escape"],
    b"\x1b[32;5u": ["ctrl+@"],
    b"\x1b[98;3u": ["ctrl+left"],
    b"\x1bb": ["ctrl+left"],
    b"\x1b\x7f": ["ctrl+w"],
    b"\x1bx": ["alt+x"],
    b"\x1bX": ["alt+shift+x"],
    b"\x1b[120;4u": ["alt+shift+x"],
    b"\x1b1": ["alt+1"],
    b"\x1b]x": ["alt+right_square_bracket", "x"],
    b"\x1bPx": ["alt+shift+p", "x"],
    # A new line.
    b"\x1b[13;2u": ["shift+enter"],
    b"\x1b[27;2;13~": ["shift+enter"],
    b"\x1b[13;3u": ["shift+enter"],
    b"\x1b\r": ["shift+enter"],
    b"\n": ["ctrl+j"],
    # Press, repeat and release; text keys that are reported as numbers.
    b"\x1b[97u": ["a"],
    b"\x1b[97;1:1u": ["a"],
    b"\x1b[97;1:2u": ["a"],
    b"\x1b[97;1:3u": [],
    b"\x1b[97:65;2u": ["A"],
    b"\x1b[97;2u": ["A"],
    b"\x1b[233;2u": ["É"],
    b"\x1b[223;2u": ["ß"],
    b"\x1b[49:33;2u": ["!"],
    b"\x1b[13u\x1b[9u\x1b[127u\x1b[27u": ["enter", "tab", "backspace", "escape"],
    b"\x1b[57414u\x1b[57417u": ["enter", "left"],
    b"\x1b[57358u\x1b[57441;2u": ["caps_lock", "shift+left_shift"],
    # Keys without text.
    b"\x1b[A\x1bOB\x1b[1;5C\x1b[1;2D": ["up", "down", "ctrl+right", "shift+left"],
    b"\x1b[1;1:3A": [],
    b"\x1b[H\x1b[F\x1b[1~\x1b[4~": ["home", "end", "home", "end"],
    b"\x1b[5~\x1b[6~\x1b[3;5~\x1b[Z": ["pageup", "pagedown", "ctrl+delete", "shift+tab"],
    b"\x1b[9;2u": ["shift+tab"],
    b"\x1bOP\x1b[11~\x1b[[A\x1b[24~\x1b[1;5P": ["f1", "f1", "f1", "f12", "ctrl+f1"],
    b"\x1b\x1b[A": ["escape", "up"],
    b"\x1b\x11": ["escape", "ctrl+q"],
    "\x1b你".encode(): ["escape", "你"],
    # What is no text, or no character.
    b"\xff": ["\ufffd"],
    b"a\xc4\xe3b": ["a", "\ufffd", "\ufffd", "b"],  # GBK
    b"\xed\xa0\x80a": ["\ufffd", "\ufffd", "\ufffd", "a"],
    b"\xe4\xbd\x1b[A": ["\ufffd", "up"],
    b"\x1b[55296u\x1b[1114112u\x1b[99999999999999u\x1b[0u": [],
    b"\x1b[97;5:9:9;1:::2u": ["ctrl+a"],
    b"\x1b[1;2;3;4u\x1b[?1;2c\x1b[>41;354;0c": [],
    b"\x1b[M !\xe9a": ["a"],  # the mouse of X10, in column 201
    b"\x1b[M\xc3\xa9\xc3b": ["b"],
    b"\x1b[35;210;7M\x1b[<99999;1;1M\x1b[<0;99999999999999999999;1M": [],
    b"\x1b[24;80R": [],
    b"\x1b]0;a title\x07\x1bP1$r0m\x1b\\\x1b_Gi=1;OK\x1b\\a": ["a"],
    # What breaks off is dropped, and nothing after it.
    b"\x1b[12\x03a": ["ctrl+c", "a"],
    b"\x1b[1;\xe4\xbd\xa0": ["你"],
    b"\x1b]0;a title\x11": ["ctrl+q"],
    b"\x1b]0;a title\x1b[A": ["up"],
    b"\x1bP1$r\x1b\x1b": ["escape", "escape"],
    b"\x1b[201~a": ["a"],
    b"\x1b[<0;1\x7f": ["backspace"],
}
# Within a paste all of this is text.
PASTES = [
    "one\ntwo",
    "a\x1b\rb",
    "\x1b\x11\x03\x04\x1a",
    "\x1b]0;title\x07\x1b]11;rgb:0/0/0\x1b\\",
    "x\x1b[Ay\x1b[13;2uz\x1b[M !!",
    "\x1b[200~again",
    "\x1b[201",
    "\x1b",
    "",
    "\x00",
    "我们今天下午去看电影。" * 500,
    "🧑\u200d🚀 ❤️ \u3000",
]
_SIGNS = b"\x1b[]OP_<>?;:~uABCDHMRmty0123456789 \\\x07\r\n\t\x00\x7f\x80\x9b\xc3\xe4\xff\xed"
# Keys that would end a chat, or stop it.
_ENDS = bytes.maketrans(b"\x03\x04\x11\x1a", b"\x02\x05\x12\x19")


def sequences(number: int, seed: int) -> list[bytes]:
    """Bytes of these kinds, random ones, and mutations of them; the same for a seed."""
    chance = random.Random(seed)
    known = [*KEYS, *(b"\x1b[200~" + text[:40].encode() + b"\x1b[201~" for text in PASTES)]
    known += [b"\x1b[200~", b"\x1b[<0;10;5M", b"\x1b[<32;11;6M", b"\x1b[<0;11;6m", b"\x1b[<65;5;5M"]
    known += [b"\x1b[48;30;100;600;1000t", b"\x1b[?2026;2$y", b"\x1b[I", b"\x1b[O"]
    return [_mutated(chance, known).translate(_ENDS) for _ in range(number)]


def _mutated(chance: random.Random, known: list[bytes]) -> bytes:
    if chance.random() < 0.2:
        return chance.randbytes(chance.randint(1, 24))
    if chance.random() < 0.2:
        return bytes(chance.choices(_SIGNS, k=chance.randint(1, 24)))
    data = bytearray(chance.choice(known))
    for _ in range(chance.randint(0, 4)):
        at = chance.randint(0, len(data))
        match chance.randrange(4):
            case 0:
                data[at:at] = bytes([chance.choice(_SIGNS)])
            case 1:
                del data[at : at + chance.randint(1, 3)]
            case 2:
                data[at : at + 1] = chance.randbytes(1)
            case _:
                data[at:at] = chance.choice(known)
    return bytes(data)
