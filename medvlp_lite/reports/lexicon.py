"""The words of a chest X-ray report: tokens, lemmas, and one longest-match pass over a sentence.

The lexicon lives in ``data/lexicon.json`` (findings) and ``data/context.json`` (sites, sides, grades, scope cues).
Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

from medvlp_lite.reports.vocabulary import read_data

SHORTHAND = r"(?i:(?:b/l|c/w|h/o|r/o|s/p|w/o)\b|w/|2/2(?= [a-z]))"
VERTEBRA = r"[CTLctl]\d{1,2}\b"
TOKEN = re.compile(rf"[A-Za-z]{{2,}}|{SHORTHAND}|{VERTEBRA}|[A-Za-z]|\d+(?:\.\d+)?|/(?!\d)|[?,:()]")
LONGEST_WORD = 40
PLURALS = (("ies", "y"), ("es", ""), ("s", ""))
BRITISH = (("oe", "e"), ("ae", "e"), ("our", "or"), ("ise", "ize"), ("yse", "yze"), ("tre", "ter"))


class Item(NamedTuple):
    """A lexicon phrase found in a sentence: tokens [first, last), what kind of phrase, and what it stands for."""

    first: int
    last: int
    kind: str
    value: str


class Token(NamedTuple):
    """A word: its lemma (None if the lexicon does not know it) and its character offsets in the sentence."""

    lemma: str | None
    start: int
    end: int


def between(items: list[Item], start: int, end: int) -> list[Item]:
    """The items that begin at tokens [start, end)."""
    return [item for item in items if start <= item.first < end]


def near(item: Item, tokens: list[Token], reach: int) -> set[str | None]:
    """The lemmas of an item and of ``reach`` tokens on either side."""
    return {token[0] for token in tokens[max(0, item.first - reach) : item.last + reach]}


class Sentence(NamedTuple):
    """A sentence, its tokens, and the lexicon's phrases in it."""

    text: str
    tokens: list[Token]
    items: list[Item]


@dataclass(frozen=True)
class Concept:
    """A finding: its name, MedKLIP entity (one of 75), MedFILIP category (one of 61, or empty) and usual site."""

    name: str
    entity: str
    category: str = ""
    site: str = ""
    needs: frozenset[str] = frozenset()


class Lexicon:
    """Phrases with their meanings, and for each first lemma the phrase lengths to try, longest first; see ``load``."""

    def __init__(self, findings: dict[str, Any], context: dict[str, Any]):
        rows = findings["findings"] | findings["derived"]
        self.concepts = {
            name: Concept(name, row["entity"], row["category"], row["site"], frozenset(row.get("needs", ())))
            for name, row in rows.items()
        }
        self.observations: dict[str, dict[str, str]] = findings["observations"]
        self.possible, self.drop = frozenset(context["possible"]), frozenset(context["drop"])
        self.expansions = {short: tuple(long.split()) for short, long in context["expansions"].items()}
        self.forms = {form: lemma for lemma, forms in context["lemmas"].items() for form in forms}
        self.words = {*context["known"], *context["lemmas"], ",", ":", "/", "(", ")"}
        self.phrases: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for phrase, kind, value in _phrases(findings, context):
            words = tuple(self.forms.get(word, word) for word in phrase.split())
            self.words.update(words)
            meanings = self.phrases.setdefault(words, [])
            if (kind, value) not in meanings:
                meanings.append((kind, value))
        self.site_words = {
            words[0] for words, found in self.phrases.items() if "site" in dict(found) and len(words) == 1
        }
        self.sizes: dict[str | None, list[int]] = {}
        for first, size in sorted({(words[0], len(words)) for words in self.phrases}, reverse=True):
            self.sizes.setdefault(first, []).append(size)
        long_words = sorted(word for word in self.words | set(self.forms) if len(word) >= 8)
        self.fuzzy = {word[:i] + word[i + 1 :]: word for word in reversed(long_words) for i in range(len(word))}
        self.lemmas: dict[str, tuple[str | None, ...]] = {}

    def lemma(self, word: str) -> tuple[str | None, ...]:
        """The lemmas of a lower-case word: one, several for an abbreviation or words run together, (None,) if not known."""
        if word not in self.lemmas:
            if len(self.lemmas) > 200_000:
                self.lemmas.clear()
            self.lemmas[word] = self._find_lemma(word)
        return self.lemmas[word]

    def _known(self, word: str) -> str | None:
        """The lemma of a known word or of the word whose plural it is."""
        stems = [word[: -len(ending)] + stem for ending, stem in PLURALS if word.endswith(ending) and len(word) > 4]
        form = next((stem for stem in (word, *stems) if stem in self.words or stem in self.forms), None)
        return form if form is None or form in self.words else self.forms[form]

    def _find_lemma(self, word: str) -> tuple[str | None, ...]:
        if word in self.drop:
            return ()
        if len(word) > LONGEST_WORD:
            return (None,)
        if word in self.expansions:
            return self.expansions[word]
        spellings = (word, *(word.replace(british, american) for british, american in BRITISH if british in word))
        known = next(filter(None, map(self._known, spellings)), None)
        if known is not None:
            return (known,)
        for cut in range(len(word) - 4, 1, -1):  # words run together: "costophrenicangle"
            left, right = self._known(word[:cut]), self._known(word[cut:])
            if left and right and (cut >= 4 or word[:cut] in ("no", "the", "and", "or", "of", "is")):
                return (left, right)
        meant = self._misspelt(word) or self._misspelt(word.removesuffix("s"))
        return (self._known(meant) if meant else None,)

    def _misspelt(self, word: str) -> str | None:
        """The known long word that one letter too many, too few or wrong has turned into ``word``."""
        shorter = [word[:i] + word[i + 1 :] for i in range(len(word))] if len(word) >= 8 else []
        candidates = [*shorter, self.fuzzy.get(word), *map(self.fuzzy.get, shorter)]
        return next((c for c in candidates if c and c[0] == word[0] and (c in self.words or c in self.forms)), None)

    def read(self, text: str) -> Sentence:
        """Tokens and phrases of a sentence; articles, hyphens and de-identification gaps (XXXX) are left out."""
        tokens: list[Token] = []
        lemmas = self.lemmas
        for match in TOKEN.finditer(text):
            word = match[0].lower()
            found = lemmas.get(word)
            if found is None:
                found = self.lemma(word)
            start, end = match.span()
            for lemma in found:
                tokens.append(Token(lemma, start, end))
        return Sentence(text, tokens, self._items(tokens))

    def _items(self, tokens: list[Token]) -> list[Item]:
        """All phrases in one left-to-right pass, longest first; a phrase with several meanings gives several items."""
        out: list[Item] = []
        lemmas = tuple([token[0] for token in tokens])
        phrases, sizes, position, count = self.phrases, self.sizes, 0, len(lemmas)
        while position < count:
            for size in sizes.get(lemmas[position], ()):
                meanings = phrases.get(lemmas[position : position + size])
                if meanings is not None:
                    last = min(position + size, count)
                    for kind, value in meanings:
                        out.append(Item(position, last, kind, value))
                    position = last
                    break
            else:
                position += 1
        return out


def _phrases(findings: dict[str, Any], context: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Every (phrase, kind, what it stands for): a value of its own, or the phrase itself."""
    terms = {name: row["terms"] for name, row in findings["findings"].items()}
    kinds = {"finding": terms, "observation": list(findings["observations"]), "ignored": findings["ignored_terms"]}
    for kind, group in (kinds | context["phrases"]).items():
        if isinstance(group, list):
            yield from ((phrase, kind, phrase) for phrase in group)
        else:
            yield from ((phrase, kind, value) for value, phrases in group.items() for phrase in phrases)
    for words in product(*context["pseudo_patterns"].values()):  # "no significant change in"
        yield " ".join(words), "pseudo", words[0]


@lru_cache(maxsize=1)
def load() -> Lexicon:
    """The package's lexicon, read once from its data files."""
    return Lexicon(read_data("lexicon"), read_data("context"))
