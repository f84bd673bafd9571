"""What is seen as one character, and other pieces of text that are hard to measure."""

CLUSTERS = {
    "family": "👨‍👩‍👧‍👦",
    "couple with skin tones": "👩🏽‍❤️‍💋‍👨🏿",
    "skin tone": "👍🏽",
    "flag": "🇳🇴",
    "flag of tags": "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "keycap": "1\ufe0f\u20e3",
    "emoji style": "⚠\ufe0f",
    "heart": "❤\ufe0f",
    "circled ideograph": "㊗\ufe0f",
    "accent": "e\u0301",
    "many accents": "o" + "\u0308\u0304\u0332" * 9,
    "accent on a space": " \u0301",
    "accented ideograph": "中\u20d0",
    "variant of an ideograph": "葛\U000e0100",
    "voiced kana": "か\u3099",
    "half-width kana": "ｶﾞ",
    "jamo": "\u1112\u1161\u11ab",
    "syllable and jamo": "하\u11ab",
    "Thai": "น้ำ",
    "Arabic": "لَّ",
    "Hebrew": "בָּ",
    "Devanagari": "क्षि",
    "joiners": "\u0915\u094d\u200d",
}
PIECES = [
    *CLUSTERS.values(),
    *"ab ，。（）「」“”世界ー…、！?($１ァ한글😀",
    *("\u200d", "\ufe0f", "\u200b", "\ufeff", "\u00ad", "\u2060", "\u20e3", "🏽", "🇸", "\u1161"),
    *("\u00a0", "\u3000", "x" * 30, "\u0301" * 90, "ไทย", "السلام عليكم", "©", "ᄀ", "\u11a8"),
]
