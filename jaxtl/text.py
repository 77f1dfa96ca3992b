"""Text that leaves the program: names of classes, files and flags hold anything, and a page or a terminal obeys some.

Escaped once, at the exit: `printable` for a terminal or a line of a file, `markdown` and `code` for a page, `latex` for
a paper. Of a text that comes in, `beginning` is what is looked at.
"""

from __future__ import annotations

import re

MARKDOWN = str.maketrans({**{c: f"\\{c}" for c in "\\`*|"}, "&": "&amp;", "<": "&lt;", ">": "&gt;"})
LATEX = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        **{
            "\\": r"\textbackslash{}",
            "~": r"\textasciitilde{}",
            "^": r"\textasciicircum{}",
            "–": "--",
            "…": r"\dots{}",
        },
        **{
            "±": r"$\pm$",
            "−": "$-$",
            "×": r"$\times$",
            "÷": r"$\div$",
            "·": r"$\cdot$",
            "→": r"$\to$",
            "√": r"$\surd$",
        },
        **{"λ": r"$\lambda$", "α": r"$\alpha$", "β": r"$\beta$", "ρ": r"$\rho$", "τ": r"$\tau$", "Σ": r"$\Sigma$"},
        **{"²": "$^2$", "³": "$^3$", "½": r"$\frac{1}{2}$", "≥": r"$\ge$", "≤": r"$\le$", "∞": r"$\infty$"},
        **{
            "▼": r"$\downarrow$",
            "▲": r"$\uparrow$",
            "<": r"$<$",
            ">": r"$>$",
            "|": r"$|$",
            "°": r"$^\circ$",
            "Δ": r"$\Delta$",
        },
    }
)
LINK = re.compile(r"\](?=[(\[:])")  # without it no link, picture, reference or footnote; [0.1, 0.2] is none


def printable(text: str) -> str:
    r"""What can be seen of a text on one line: control and format characters, line ends and surrogates as escapes.

    Args:
        text: anything; what is printable already comes back as it is, so twice is as good as once.

    Example:
        >>> print(printable("a\x1b[31m\nλ\u202e"))
        a\x1b[31m\nλ\u202e
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def markdown(text: str) -> str:
    r"""A text that Markdown shows as it is: no HTML, link, picture, emphasis or column begins in it.

    Args:
        text: anything. Underscores are left: within a word they mean nothing, and a name stays a name.

    Example:
        >>> print(markdown("l2_sp ![x](y) <b>|"))
        l2_sp ![x\](y) &lt;b&gt;\|
    """
    return LINK.sub(r"\\]", printable(text).translate(MARKDOWN))


def latex(text: str) -> str:
    r"""A text that LaTeX sets as it is: no command, no mathematics, and signs as it has them.

    Args:
        text: anything; letters of other alphabets stay, for engines that read Unicode.

    Example:
        >>> print(latex("l2_sp 5 % ± 1, λ → ∞"))
        l2\_sp 5 \% $\pm$ 1, $\lambda$ $\to$ $\infty$
    """
    return printable(text).translate(LATEX)


def code(text: str) -> str:
    """A text as code in Markdown, with a fence longer than any that it holds.

    Example:
        >>> print(code("python -m x"), code("a`b"))
        `python -m x` `` a`b ``
    """
    text = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def beginning(text: str, most: int) -> tuple[str, bool]:
    r"""What of a text can matter where a bounded number of letters does, so that one of any length takes no memory.

    Args:
        text: anything; white space becomes single blanks, half of a pair (a surrogate) a question mark.
        most: letters.

    Returns:
        (the beginning, whether that is less than all of it).

    Example:
        >>> beginning("a  long\n story", 6), beginning(" short ", 6)
        (('a long', True), ('short', False))
    """
    start = " ".join(text[: 2 * most].split())
    return start[:most].encode("utf-8", "replace").decode(), len(start) > most or len(text) > 2 * most
