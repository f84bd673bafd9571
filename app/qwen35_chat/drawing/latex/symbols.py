"""What commands of LaTeX's mathematics look like in Unicode.

Each table is written as pairs of a command's name and its text.
"""

import unicodedata
from functools import cache


def _pairs(text: str) -> dict[str, str]:
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LETTERS = _pairs("""
    alpha α beta β gamma γ delta δ epsilon ϵ varepsilon ε zeta ζ eta η theta θ vartheta ϑ iota ι
    kappa κ varkappa ϰ lambda λ mu μ nu ν xi ξ omicron ο pi π varpi ϖ rho ρ varrho ϱ sigma σ
    varsigma ς tau τ upsilon υ phi ϕ varphi φ chi χ psi ψ omega ω digamma ϝ
    Gamma Γ Delta Δ Theta Θ Lambda Λ Xi Ξ Pi Π Sigma Σ Upsilon Υ Phi Φ Psi Ψ Omega Ω
    infty ∞ partial ∂ nabla ∇ hbar ℏ hslash ℏ ell ℓ Re ℜ Im ℑ wp ℘ aleph ℵ beth ℶ gimel ℷ
    imath ı jmath ȷ emptyset ∅ varnothing ∅ forall ∀ exists ∃ nexists ∄ neg ¬ lnot ¬ top ⊤ bot ⊥
    angle ∠ measuredangle ∡ triangle △ square □ Box □ blacksquare ■ qed ■ diamond ⋄ Diamond ◇
    lozenge ◊ star ⋆ bigstar ★ dagger † ddagger ‡ S § P ¶ copyright © pounds £ euro € yen ¥
    degree ° circ ∘ prime ′ backprime ‵ ldots … dots … dotsc … cdots ⋯ dotsb ⋯ dotsm ⋯ dotsi ⋯
    vdots ⋮ ddots ⋱ iddots ⋰ sharp ♯ flat ♭ natural ♮ clubsuit ♣ diamondsuit ♢ heartsuit ♡
    spadesuit ♠ checkmark ✓ backslash \\ surd √ mho ℧ eth ð AA Å aa å ae æ AE Æ o ø O Ø ss ß
    l ł L Ł complement ∁ dag † ddag ‡ R ℝ N ℕ Z ℤ Q ℚ C ℂ
    bigcirc ◯ blacktriangle ▲ triangledown ▽ blacktriangledown ▼ lightning ↯ Join ⋈
    vert | Vert ‖
    textquoteright ’ textdollar $ textbackslash \\ textasciitilde ~ textbar | slash /
""")
LETTERS.update({"%": "%", "$": "$", "#": "#", "&": "&", "_": "_", "|": "‖"})
LETTERS["-"] = ""  # where a word may be hyphenated

RELATIONS = _pairs("""
    le ≤ leq ≤ leqslant ⩽ ge ≥ geq ≥ geqslant ⩾ ne ≠ neq ≠ equiv ≡ approx ≈ approxeq ≊ sim ∼
    simeq ≃ cong ≅ ncong ≇ asymp ≍ doteq ≐ propto ∝ varpropto ∝ ll ≪ gg ≫ lll ⋘ ggg ⋙ prec ≺
    preceq ⪯ succ ≻ succeq ⪰ lesssim ≲ gtrsim ≳ lessgtr ≶ gtrless ≷ nless ≮ ngtr ≯ nleq ≰ ngeq ≱
    triangleq ≜ coloneqq ≔ coloneq ≔ eqqcolon ≕ eqdef ≝ lt < gt >
    in ∈ notin ∉ ni ∋ owns ∋ subset ⊂ supset ⊃ subseteq ⊆ supseteq ⊇ subsetneq ⊊ supsetneq ⊋
    nsubseteq ⊈ nsupseteq ⊉ sqsubset ⊏ sqsupset ⊐ sqsubseteq ⊑ sqsupseteq ⊒ mid ∣ nmid ∤
    parallel ∥ nparallel ∦ perp ⊥ vdash ⊢ nvdash ⊬ dashv ⊣ models ⊨ vDash ⊨ Vdash ⊩ nvDash ⊭
    bowtie ⋈ smile ⌣ frown ⌢ therefore ∴ because ∵ trianglelefteq ⊴ trianglerighteq ⊵
    to → rightarrow → gets ← leftarrow ← leftrightarrow ↔ Rightarrow ⇒ Leftarrow ⇐
    Leftrightarrow ⇔ implies ⟹ impliedby ⟸ iff ⟺ longrightarrow ⟶ longleftarrow ⟵
    longleftrightarrow ⟷ Longrightarrow ⟹ Longleftarrow ⟸ Longleftrightarrow ⟺ mapsto ↦
    longmapsto ⟼ uparrow ↑ downarrow ↓ updownarrow ↕ Uparrow ⇑ Downarrow ⇓ Updownarrow ⇕
    nearrow ↗ searrow ↘ swarrow ↙ nwarrow ↖ hookrightarrow ↪ hookleftarrow ↩
    rightharpoonup ⇀ rightharpoondown ⇁ leftharpoonup ↼ leftharpoondown ↽ rightleftharpoons ⇌
    leftrightharpoons ⇋ rightleftarrows ⇄ leftrightarrows ⇆ twoheadrightarrow ↠ rightsquigarrow ⇝
    leadsto ⇝ nrightarrow ↛ nleftarrow ↚ nRightarrow ⇏ nLeftarrow ⇍ nLeftrightarrow ⇎
    rightrightarrows ⇉ circlearrowleft ↺ circlearrowright ↻ multimap ⊸ vcentcolon :
""")
OPERATORS = _pairs("""
    times × div ÷ pm ± mp ∓ cdot · ast ∗ bullet • cap ∩ cup ∪ uplus ⊎ sqcap ⊓ sqcup ⊔ wedge ∧
    land ∧ vee ∨ lor ∨ veebar ⊻ setminus ∖ smallsetminus ∖ oplus ⊕ ominus ⊖ otimes ⊗ oslash ⊘
    odot ⊙ dotplus ∔ ltimes ⋉ rtimes ⋊ wr ≀ amalg ⨿ boxplus ⊞ boxminus ⊟ boxtimes ⊠ boxdot ⊡
    centerdot · triangleleft ◁ triangleright ▷ Cup ⋓ Cap ⋒ curlyvee ⋎ curlywedge ⋏ divideontimes ⋇
""")
LIMITED = _pairs("""
    sum ∑ prod ∏ coprod ∐ bigcup ⋃ bigcap ⋂ bigsqcup ⨆ bigvee ⋁ bigwedge ⋀ bigoplus ⨁
    bigotimes ⨂ bigodot ⨀ biguplus ⨄
""")
INTEGRALS = _pairs("int ∫ iint ∬ iiint ∭ oint ∮ oiint ∯ intop ∫ smallint ∫")
# Names of functions; limits stand below the second kind.
NAMES = _words("""
    arccos arcsin arctan arg cos cosh cot coth csc deg dim exp hom ker lg ln log sec sin sinh tan
    tanh arccot arcsec arccsc sgn tr Tr rank erf mod
""")
LIMIT_NAMES = _words("lim limsup liminf max min sup inf det gcd lcm Pr argmax argmin")
OPENING = _pairs("langle ⟨ lfloor ⌊ lceil ⌈ lvert | lVert ‖ lbrace { lbrack [ ulcorner ⌜ lparen (")
CLOSING = _pairs("rangle ⟩ rfloor ⌋ rceil ⌉ rvert | rVert ‖ rbrace } rbrack ] urcorner ⌝ rparen )")
SPACES = {",": " ", ":": " ", ";": " ", " ": " ", "!": "", "quad": "  ", "qquad": "    ",
          "thinspace": " ", "medspace": " ", "thickspace": " ", "enspace": " ", "negthinspace": "",
          "space": " ", "/": "", "nobreakspace": " "}  # fmt: skip
ACCENTS = {"hat": "\u0302", "widehat": "\u0302", "tilde": "\u0303", "widetilde": "\u0303",
           "bar": "\u0304", "overline": "\u0305", "vec": "\u20d7", "overrightarrow": "\u20d7",
           "dot": "\u0307", "ddot": "\u0308", "dddot": "\u20db", "check": "\u030c",
           "acute": "\u0301", "grave": "\u0300", "breve": "\u0306", "mathring": "\u030a",
           "underline": "\u0332", "cancel": "\u0338", "bcancel": "\u0338",
           "xcancel": "\u0338", "underbar": "\u0332"}  # fmt: skip
OPENING["{"], CLOSING["}"] = "{", "}"
# Commands that change the size or the place of what follows, or nothing that text can show.
IGNORED = _words("""
    displaystyle textstyle scriptstyle scriptscriptstyle limits nolimits nonumber notag big Big bigg
    Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm Bigm biggm Biggm hline rm bf it
    boldmath strut mathstrut allowbreak nobreak
""")

MATRICES = {"matrix": ("", ""), "pmatrix": ("(", ")"), "bmatrix": ("[", "]"),
             "Bmatrix": ("{", "}"), "vmatrix": ("|", "|"), "Vmatrix": ("‖", "‖"),
             "smallmatrix": ("", ""), "array": ("", ""), "subarray": ("", "")}  # fmt: skip
CASES = {"cases": ("{", ""), "dcases": ("{", ""), "rcases": ("", "}")}
ALIGNED = _words("""
    align aligned alignat alignedat split eqnarray gather gathered multline equation flalign
    displaymath math
""")
ENVIRONMENTS = frozenset([*MATRICES, *CASES, *ALIGNED])
# Commands whose one argument is not shown.
HIDDEN = _words("textcolor color colorbox label vspace phantom hphantom vphantom")
TEXT = _words("""
    text textrm textbf textit texttt textsf textnormal mbox hbox fbox emph textsc textup textmd
""")

FRACTIONS = {(1, 2): "½", (1, 3): "⅓", (2, 3): "⅔", (1, 4): "¼", (3, 4): "¾", (1, 5): "⅕",
             (2, 5): "⅖", (3, 5): "⅗", (4, 5): "⅘", (1, 6): "⅙", (5, 6): "⅚", (1, 8): "⅛",
             (3, 8): "⅜", (5, 8): "⅝", (7, 8): "⅞"}  # fmt: skip
SUPERSCRIPTS = str.maketrans(
    "0123456789,+−-=()abcdefghijklmnoprstuvwxyzABDEGHIJKLMNOPRTUVWαβγδθιϕφχ′″‴∗*†‡°∘⊤",
    "⁰¹²³⁴⁵⁶⁷⁸⁹,⁺⁻⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᴬᴮᴰᴱᴳᴴᴵᴶᴷᴸᴹᴺᴼᴾᴿᵀᵁⱽᵂᵅᵝᵞᵟᶿᶥᶲᵠᵡ′″‴**†‡°°ᵀ",
)
SUBSCRIPTS = str.maketrans(
    "0123456789,+−-=()aehijklmnoprstuvxβγρφϕχ",
    "₀₁₂₃₄₅₆₇₈₉,₊₋₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵧᵨᵩᵩᵪ",
)

# Names in Unicode of the alphabets for letters.
_ALPHABETS = {"mathbb": "DOUBLE-STRUCK", "mathbf": "BOLD", "boldsymbol": "BOLD", "bm": "BOLD",
              "mathcal": "SCRIPT", "mathscr": "SCRIPT", "mathfrak": "FRAKTUR",
              "mathbfit": "BOLD ITALIC", "pmb": "BOLD", "bold": "BOLD"}  # fmt: skip
PLAIN_ALPHABETS = _words("""
    mathrm mathit mathsf mathtt mathnormal mathop mathbin mathrel mathord mathopen mathclose
""")


def alphabet(command: str) -> str | None:
    """The alphabet that a command chooses, by its name in Unicode; None if it chooses none."""
    return _ALPHABETS.get(command)


@cache
def letter(character: str, alphabet: str) -> str:
    """A letter or digit of an alphabet; itself where Unicode has none."""
    name = unicodedata.name(character, "")
    for start in ("LATIN ", "GREEK "):
        if name.startswith(start) and "LETTER" in name:
            short = name.removeprefix("LATIN ").removeprefix("GREEK ").replace(" LETTER", "")
            break
    else:
        if not name.startswith("DIGIT "):
            return character
        short = name
    for wanted in (f"MATHEMATICAL {alphabet} {short}", f"{alphabet} {short}"):
        try:
            return unicodedata.lookup(wanted)
        except KeyError:
            pass
    # Letters that had been in Unicode before the alphabets were.
    older = {"SCRIPT SMALL E": "ℯ", "SCRIPT SMALL G": "ℊ", "SCRIPT SMALL O": "ℴ",
             "FRAKTUR CAPITAL C": "ℭ", "FRAKTUR CAPITAL H": "ℌ", "FRAKTUR CAPITAL I": "ℑ",
             "FRAKTUR CAPITAL R": "ℜ", "FRAKTUR CAPITAL Z": "ℨ"}  # fmt: skip
    return older.get(f"{alphabet} {short}", character)
