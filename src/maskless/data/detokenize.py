"""Undo the spacing of tokenised corpora, rule by rule, as the zero-shot sets of the literature were undone.

Spec section 4.3 says which corpus takes which. The rules are those commonly used for these corpora (WikiText and PTB
as in Megatron-LM's evaluation, LM1B and LAMBADA as in SEDD and MDLM), quirks included: a perplexity is comparable
only if the text is the same to the letter.
"""
from __future__ import annotations

import re
import string
from collections.abc import Callable

Detokenizer = Callable[[str], str]
Rules = tuple[tuple[str, str], ...]  # regular expression and replacement, applied in order


def _rules(literal: Rules, patterns: Rules = (), more: Rules = ()) -> Rules:
    escape = lambda rules: tuple((re.escape(old), new.replace("\\", r"\\")) for old, new in rules)
    return (*escape(literal), *patterns, *escape(more))


def _apply(rules: Rules, text: str) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def _hugging(left: str, right: str) -> tuple[str, str]:
    """No space inside a pair of brackets or quotes."""
    return rf"{re.escape(left)}\s*([^{re.escape(right)}]*?)\s*{re.escape(right)}", rf"{left}\1{right}"


WIKITEXT = _rules(
    literal=(
        ("s '", "s'"),
        (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."),
        *((f" {mark} ", f"{mark} ") for mark in ":;.!?,"),
    ),
    patterns=(_hugging("(", ")"), _hugging("[", "]"), _hugging("{", "}"), _hugging('"', '"'), _hugging("'", "'")),
    more=(
        ("= = = =", "===="), ("= = =", "==="), ("= =", "=="),
        (" ° ", "°"), (" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s"),
    ),
)

PENN = _rules(
    literal=(
        (" 's", "'s"), ("s ' ", "s' "), (" n't", "n't"), (" \n ", "\n"), ("\\/", "/"),
        (" N ", " 1 "), (" N ", " 1 "),  # twice: neighbours share a space
        ("$ 1", "$1"), ("# 1", "#1"), ("<unk>", "?"),
    ),
)

BILLION = _rules(
    literal=(("http : / / ", "http://"), ("https : / / ", "https://")),
    patterns=(
        (r" '(\w+)", r"'\1"),
        (r" (\w+) \. ", r" \1. "), (r" (\w+) \.$", r" \1."),
        (r" \? ", "? "), (r" \?$", "?"), (r" ! ", "! "), (r" !$", "!"),
        (" , ", ", "), (" : ", ": "), (" ; ", "; "), (" / ", "/"),
        (r'" ([^"]+) "', r'"\1"'), (r"' ([^']+) '", r"'\1'"),
        (r"\( ([^()]+) \)", r"(\1)"), (r"\[ ([^\[\]]+) \]", r"[\1]"),
    ),
    more=(("$ ", "$"), ("£ ", "£")),
)


def wikitext(text: str) -> str:
    """WikiText: joins @-@ marks, punctuation, brackets, quotes and headings."""
    return _apply(WIKITEXT, text)


def penn_treebank(text: str) -> str:
    """Penn Treebank: joins clitics, writes N as 1 and <unk> as ?."""
    return _apply(PENN, text)


def one_billion_words(text: str) -> str:
    """LM1B: joins clitics, punctuation, web addresses, brackets and currency."""
    return _apply(BILLION, text)


def lambada(text: str) -> str:
    """LAMBADA: straight quotes, and a line break in front."""
    return "\n" + text.replace("“", '"').replace("”", '"').strip()


def scientific_papers(text: str) -> str:
    """arXiv and PubMed: WikiText's rules, then LM1B's."""
    return one_billion_words(wikitext(text))


def text8_style(text: str) -> str:
    """The 27 characters of text8: a..z and single spaces, digits spelled out. Results on it are not text8 results."""
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    spelled = text.lower()
    for digit, word in zip(string.digits, words):
        spelled = spelled.replace(digit, f" {word} ")
    return " ".join(re.sub(r"[^a-z]+", " ", spelled).split())


DETOKENIZERS: dict[str, Detokenizer] = {
    "wikitext": wikitext, "ptb": penn_treebank, "lm1b": one_billion_words, "lambada": lambada,
    "scientific_papers": scientific_papers, "text8": text8_style,
}
