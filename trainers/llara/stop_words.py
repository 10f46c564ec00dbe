"""Stop words: those that say little about what a passage is about. Lists of four languages, or a file of your own."""

from collections.abc import Sequence
from pathlib import Path

from ..data.plain_text import read_text
from ..data.readers import refuse_loose_link

# Function words and auxiliaries, written for Lookback; in French also what an apostrophe joins to a word.
# ruff: noqa: RUF001, RUF002  (typographic quotes are meant)
_ENGLISH = """a about above after again against all also am an and any are as at be because been before being below
    between both but by can could did do does doing down during each few for from further had has have having he her
    here hers herself him himself his how i if in into is it its itself just may me might more most must my myself
    no nor not now of off on once only or other our ours ourselves out over own same shall she should so some such
    than that the their theirs them themselves then there these they this those through to too under until up upon
    us very was we were what when where which while who whom whose why will with would you your yours yourself
    yourselves"""
_GERMAN = """ab aber alle allem allen aller alles als also am an ander andere anderem anderen anderer anderes auch
    auf aus bei beim bin bis bist da dabei dadurch dafür damit danach dann daran darauf daraus darin darüber das
    dass dasselbe davon davor dazu dein deine deinem deinen deiner deines dem den denen denn der deren des deshalb
    dessen dich die dies diese diesem diesen dieser dieses dir doch dort du durch ein eine einem einen einer eines
    einige einigem einigen einiger einiges er es etwas euch euer eure eurem euren eurer eures für gegen gewesen hab
    habe haben hat hatte hatten hattest hier hin hinter ich ihm ihn ihnen ihr ihre ihrem ihren ihrer ihres im in
    indem ins ist ja jede jedem jeden jeder jedes jene jenem jenen jener jenes jetzt kann kannst kein keine keinem
    keinen keiner keines können konnte könnte konnten könnten machen man manche manchem manchen mancher manches mein
    meine meinem meinen meiner meines mich mir mit muss müssen musste mussten nach nicht nichts noch nun nur ob oder
    ohne sehr sei seien sein seine seinem seinen seiner seines seit selbst sich sie sind so solche solchem solchen
    solcher solches soll sollen sollte sollten sondern sonst über um und uns unser unsere unserem unseren unserer
    unseres unter viel vom von vor während war waren warst was weg weil weiter welche welchem welchen welcher
    welches wenn wer werde werden wie wieder will wir wird wirst wo wollen wollte wollten wurde würde wurden würden
    zu zum zur zwar zwischen"""
_FRENCH = """à ai aie ainsi alors après as au aucun aucune aussi autre autres aux avaient avais avait avant avec
    avez avoir avons ayant c' ça car ce ceci cela celle celles celui ces cet cette ceux chaque chez comme comment
    contre d' dans de depuis des donc dont du elle elles en encore entre es est et étaient étais était étant été
    être eu eux fait font furent fut hors il ils j' je jusqu' l' la là laquelle le lequel les lesquelles lesquels
    leur leurs lorsqu' lorsque lui m' ma mais me même mêmes mes mien moi moins mon n' ne ni nos notre nous on ont ou
    où par parce pas pendant peu peut peuvent plus pour pourquoi puis qu' quand que quel quelle quelles quels qui
    quoi s' sa sans se sera serait seront ses si sien soi soit sommes son sont sous suis sur t' ta tandis te tel
    telle telles tels tes toi ton tous tout toute toutes très tu un une vers vos votre vous y"""
_SPANISH = """a al algo algún alguna algunas alguno algunos ante antes aquel aquella aquellas aquello aquellos aquí
    así aún aunque bajo cada como con contra cual cuales cuando de del desde donde durante e el él ella ellas ellos
    en entre era eran es esa esas ese eso esos esta está estaba estaban estado están estar estas este esto estos fue
    fueron ha haber había habían han hasta hay la las le les lo los más me mi mí mientras mis mucho muy nada ni no
    nos nosotros nuestra nuestras nuestro nuestros o os otra otras otro otros para pero poco por porque pues que qué
    quien quién quienes se sea sean según ser si sí sido sin sobre son su sus suya suyo también tan tanto te tenía
    tiene tienen todo todos tu tú tus un una unas uno unos usted ustedes vosotros y ya yo"""
LANGUAGES = {
    name: frozenset(words.split())
    for name, words in {"english": _ENGLISH, "german": _GERMAN, "french": _FRENCH, "spanish": _SPANISH}.items()
}
STOP_WORDS = LANGUAGES["english"]
_EDGES = ".,;:!?\"'()[]{}«»“”„‘’¿¡"


def load_stop_words(names: Sequence[str]) -> frozenset[str]:
    """The stop words of some languages and files together; `none` alone is no stop words.

    A file is UTF-8 text: words separated by white space, in any case; from a `#` on, the rest of a line is a comment.
    Raises ValueError for a name that is neither a language nor a file, for a file without words, and for no name.
    """
    if list(names) == ["none"]:
        return frozenset()
    if not names or "none" in names:
        raise ValueError(f"stop_words={list(names)}: give languages and files, or 'none' alone.")
    return frozenset().union(*(LANGUAGES.get(name) or _read_list(name) for name in names))


def _read_list(name: str) -> frozenset[str]:
    refuse_loose_link(Path(name))
    if not Path(name).is_file():
        raise ValueError(
            f"stop_words: {name!r} is neither a language ({', '.join(LANGUAGES)}, none) nor a file; "
            "give the path of a text file with your own list."
        )
    lines = read_text(Path(name)).lower().splitlines()
    words = frozenset(word for line in lines for word in line.partition("#")[0].split())
    if not words:
        raise ValueError(f"stop_words: file {name!r} holds no word; for no stop words at all say 'none'.")
    return words


def without_stop_words(text: str, stop_words: frozenset[str] = STOP_WORDS) -> str:
    """The words of `text` that are not stop words, joined by single spaces; case and outer punctuation do not count.

    A stop word that ends in an apostrophe is taken off the word that it is joined to.

    >>> without_stop_words("The lantern is on the island, and it is copper.")
    'lantern island, copper.'
    >>> without_stop_words("L’île et la lanterne", LANGUAGES["french"])
    'île lanterne'
    """
    words = (_without_elision(word, stop_words) for word in text.split())
    return " ".join(word for word in words if not is_stop_word(word, stop_words))


def is_stop_word(word: str, stop_words: frozenset[str]) -> bool:
    """Whether a single word is one, whatever its case and the punctuation around it."""
    return word.strip(_EDGES).lower() in stop_words


def _without_elision(word: str, stop_words: frozenset[str]) -> str:
    first, apostrophe, rest = word.replace("’", "'").partition("'")
    elided = bool(rest) and f"{first}{apostrophe}".lstrip(_EDGES).lower() in stop_words
    return word[len(first) + 1 :] if elided else word
