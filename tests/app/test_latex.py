"""Formulas as text: in one line, and by themselves."""

import pytest
from qwen35_chat.drawing.latex.layout import one_line, several_lines
from qwen35_chat.drawing.latex.parser import DEEPEST, LONGEST, UnreadableError, parse
from rich.cells import cell_len

ONE_LINE = {
    # letters, signs and the spaces around them
    r"\alpha+\beta \le \Gamma": "α + β ≤ Γ",
    r"\{-1, 2\} \subseteq \mathbb{R}": "{−1, 2} ⊆ ℝ",
    r"a\,b\;c\!d\quad e": "a b cd  e",
    r"x \in A \not= B, y \not\in C": "x ∈ A ≠ B, y ∉ C",
    r"f\colon A \to B, 1{,}000": "f: A → B, 1,000",
    r"f: A \to B, x \mapsto -x": "f : A → B, x ↦ −x",
    r"3 \cdot (-2) \times 4 = -24": "3 · (−2) × 4 = −24",
    r"n! / 2, 50\%, \$5, a\_b": "n!/2, 50%, $5, a_b",
    r"O(n \log n), \sin x, \sin(x)": "O(n log n), sin x, sin(x)",
    r"\lvert x \rvert \lfloor y \rfloor \langle z \rangle": "|x|⌊y⌋⟨z⟩",
    r"\mathbf{W}, \mathcal{L}, \mathfrak{g}, \mathrm{d}x": "𝐖, ℒ, 𝔤, dx",
    r"\overrightarrow{AB}, \widehat{ABC}, \widetilde{ab}": "A⃗B⃗, AB̂C, ãb",
    r"\hat{y}, \vec{v}, \bar{x}, \overline{AB}, \dot x": "ŷ, v⃗, x̄, A̅B̅, ẋ",
    r"5\,\text{km}, \text{if } x>0": "5 km, if x > 0",
    r"\text{速度}=v": "速度 = v",
    # scripts
    "x^2, x_1, x_i^2, a_{ij}, x^{n+1}, a_{1,2}": "x², x₁, xᵢ², aᵢⱼ, xⁿ⁺¹, a₁,₂",
    r"e^{i\pi}, x_\alpha, 2^{2^n}, x^\pi": "e^(iπ), x_α, 2^(2ⁿ), x^π",
    "f'(x), f''(x), f'^2": "f′(x), f″(x), f′²",
    r"90^\circ, A^\top, A^{-1}, x^*, A^T": "90°, Aᵀ, A⁻¹, x*, Aᵀ",
    "H_2O + CO_2": "H₂O + CO₂",
    r"x_{\text{max}}, p_{\text{a b}}": "xₘₐₓ, p_(a b)",
    "(a+b)^2, {a+b}^2": "(a + b)², (a + b)²",
    # fractions, roots, sums
    r"\frac{1}{2}, \frac12 x, \frac{1}{10}x": "½, ½x, 1/10 x",
    r"\frac{a+b}{c}, \frac{a}{b+c}, \dfrac{a}{bc}": "(a + b)/c, a/(b + c), a/(bc)",
    r"\frac{dy}{dx} = \frac{\partial f}{\partial x}": "dy/dx = ∂f/∂x",
    r"\frac{\frac{a}{b}}{c}": "(a/b)/c",
    r"\frac{n(n+1)}{2}, \frac{\sin x}{x}": "n(n + 1)/2, (sin x)/x",
    r"\frac{a}{c^2}, \frac{1}{n^s}, \frac{a}{\sqrt{d_k}}": "a/c², 1/nˢ, a/√dₖ",
    r"\sqrt{x^2}, \sqrt{12}, \sum_i (x_i)": "√(x²), √12, ∑ᵢ (xᵢ)",
    r"\sqrt{x}, \sqrt{x+1}, \sqrt[3]{8}, \sqrt[n]{ab}": "√x, √(x + 1), ∛8, ⁿ√(ab)",
    r"\sum_{i=1}^{n} i, \int_0^1 x^2\,dx": "∑ᵢ₌₁ⁿ i, ∫₀¹ x² dx",
    r"\lim_{n\to\infty} a_n, \max_{x\in S} f(x)": "lim_(n→∞) aₙ, max_(x∈S) f(x)",
    r"\binom{n}{k}": "(n over k)",
    r"\operatorname{softmax}(z), \operatorname*{argmax}_x f": "softmax(z), argmaxₓ f",
    # structures
    r"\left( \frac{a}{b} \right)^2": "(a/b)²",
    r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}": "(a b; c d)",
    r"\begin{cases} x & x>0 \\ -x & \text{else} \end{cases}": "{x, x > 0; −x, else",
    r"A \xrightarrow{f} B, \overset{!}{=}": "A ─f─→ B, =^!",
    r"\boxed{42}": "[ 42 ]",
    r"a \equiv b \pmod{n}": "a ≡ b (mod n)",
    r"\underbrace{a+b}_{n}": "(a + b)ₙ",
    # what is unknown stays as it was written
    r"\foo{b_1}[c] + \qty{5}": r"\foo{b_1}[c] + \qty{5}",
    r"\bigl( x \bigr) \displaystyle \label{a}": "(x)",
}
ALONE = {
    r"x = \frac{-b \pm \sqrt{b^2-4ac}}{2a}": """
     −b ± √(b² − 4ac)
x = ──────────────────
            2a""",
    r"\sum_{i=1}^{n} i^2": """
 n
 ∑  i²
i=1""",
    r"A = \begin{pmatrix} 1 & 20 \\ 300 & 4 \end{pmatrix}": """
A = ⎛ 1   20⎞
    ⎝300  4 ⎠""",
    r"|x| = \begin{cases} x & \text{if } x \ge 0 \\ -x & \text{otherwise} \end{cases}": """
|x| = ⎧x   if x ≥ 0
      ⎩−x  otherwise""",
    r"\begin{cases} a \\ b \\ c \end{cases}": """
⎧a
⎨b
⎩c""",
    r"\begin{aligned} a &= b + c \\ &= d \end{aligned}": """
a = b + c
  = d""",
    r"a &= b \\ cc &= d": """
 a = b
cc = d""",
    r"\left[\begin{array}{cc|c} 1 & 2 & 3 \\ 4 & 5 & 6 \end{array}\right]": """
⎡1  2  │  3⎤
⎣4  5  │  6⎦""",
    r"e^{-x^2}": """
 −x²
e""",
    r"\left(1+\frac{1}{n}\right)^n": """
⎛     1 ⎞ⁿ
⎜1 + ───⎟
⎝     n ⎠""",
    r"\boxed{x = 1}": """
┌───────┐
│ x = 1 │
└───────┘""",
    r"\underbrace{a+b+c}_{\text{sum}}": """
a + b + c
╰───┬───╯
   sum""",
    r"\text{速度} = \frac{\text{路}}{t}": """
        路
速度 = ────
        t""",
    r"x_1^2": "\nx₁²",
}
UNREADABLE = [
    r"\frac{a}{b", "a}", r"\left( a", r"a \right)", "x^a^b", "x_", r"\sqrt", r"\frac{a}",
    r"\begin{foo} a \end{foo}", r"\begin{cases} a", r"\end{cases}", r"\begin{cases} a \end{align}",
    "\\", "{" * (DEEPEST + 1) + "}" * (DEEPEST + 1), "x" * (LONGEST + 1),
    r"\sqrt[" * 200 + "]" * 200, r"\substack{" * 200 + "}" * 200, r"\hat" * 200,
]  # fmt: skip


@pytest.mark.parametrize("latex", ONE_LINE)
def test_a_formula_in_one_line(latex: str) -> None:
    assert one_line(parse(latex)) == ONE_LINE[latex]


@pytest.mark.parametrize("latex", ALONE)
def test_a_formula_by_itself(latex: str) -> None:
    lines = several_lines(parse(latex))
    assert [line.rstrip() for line in lines] == ALONE[latex].split("\n")[1:]


@pytest.mark.parametrize("latex", UNREADABLE)
def test_what_is_not_balanced_or_too_deep_is_refused(latex: str) -> None:
    with pytest.raises(UnreadableError):
        parse(latex)


@pytest.mark.parametrize("latex", [*ONE_LINE, *ALONE])
def test_lines_of_a_formula_are_equally_wide(latex: str) -> None:
    assert len({cell_len(line) for line in several_lines(parse(latex))}) == 1


def test_the_start_of_a_formula_is_read_or_refused() -> None:
    # As it is while the rest is still being written.
    for latex in [*ONE_LINE, *ALONE]:
        for end in range(len(latex)):
            try:
                tree = parse(latex[:end])
            except UnreadableError:
                continue
            several_lines(tree)
            one_line(tree)
