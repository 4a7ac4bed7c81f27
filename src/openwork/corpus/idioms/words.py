"""The words that the little programs are made of, the commonest first (draws favour the head of a list)."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NOUNS = _words(
    """name value key data path file line text item node list size index count code type user state result message
    error table row field token word part block group event order task job test page url host port address time date
    year month day hour level depth width height length limit total sum price cost rate weight score point color
    image model option config mode status flag version target source parent child root tree graph edge queue stack
    buffer cache store record entry header body title label tag note comment reply query filter rule pattern match
    prefix suffix char string number digit letter symbol format style theme view window button menu panel frame cell
    column grid map zone region city country street room house door wall floor garden river lake sea island road
    bridge car train plane ship wheel engine motor pump valve sensor signal channel stream packet socket server
    client session login password secret role team member owner author editor reader writer student teacher school
    course lesson grade exam answer question choice vote poll survey report summary chart plot axis legend scale
    range step phase stage cycle round turn game player card deck dice board move goal prize bonus coin bank account
    balance payment invoice product shelf box bag basket cart shop market stock share fund budget plan project
    module package driver device disk memory thread lock timer clock alarm lamp sample batch chunk slice piece seed
    leaf branch fruit apple lemon bread cheese salt sugar recipe meal dinner guest ticket seat flight hotel trip
    """
)
"""Things: names of variables, arguments, attributes, keys, files; capitalised, names of classes."""

VERBS = _words(
    """get set add load save read write check find make run print send open close start stop parse build create update
    remove delete count sort merge split join copy move format show log handle process compute convert filter fetch
    store select search match apply call test clean reset collect group wrap render encode decode draw push pop insert
    replace reduce scan visit follow resolve register notify dispatch verify validate measure compare report record
    connect accept reject import export upload download pack unpack swap shift rotate fill drop keep reverse repeat
    """
)
"""Actions: names of functions and methods, alone or before a noun."""

ADJECTIVES = _words(
    """new old first last next current max min total default local global main base raw full empty open closed active
    valid final public private internal external temporary simple complex small large short long high low fast slow
    hidden visible ready done missing unknown left right upper lower inner outer extra daily weekly random
    """
)
"""Qualities: before a noun, in names and in texts."""

LETTERS = tuple("xyabnijkmtvcpsdewz")
"""Names of one letter."""

PHRASES = (
    "hello world",
    "not found",
    "file not found",
    "no such file",
    "done",
    "ok",
    "yes",
    "no",
    "error",
    "warning",
    "loading",
    "saving",
    "starting",
    "finished",
    "invalid value",
    "missing key",
    "wrong type",
    "out of range",
    "not allowed",
    "please wait",
    "try again",
    "good morning",
    "see you soon",
    "all tests passed",
    "something went wrong",
    "nothing to do",
    "already exists",
    "access denied",
    "connection lost",
    "time is up",
    "press any key",
    "the end",
    "to be continued",
    "welcome back",
    "thank you",
    "one more time",
    "please enter a name",
    "bad request",
)
"""What programs say."""

MODULES = ("os", "sys", "re", "json", "math", "time", "random", "itertools", "functools", "collections", "pathlib")
"""Modules that programs import."""

LOGS = ("logging", "log", "logger")
"""Names of what programs log to."""

READ_FROM = ("input", "source", "config", "data")
WRITE_TO = ("output", "target", "report", "result")
"""Files that are only read, and files that are only written; any other file may be either."""

EXTENSIONS = ("txt", "csv", "json", "log", "py", "md", "ini", "dat")
EXCEPTIONS = ("ValueError", "KeyError", "TypeError", "IndexError", "OSError", "RuntimeError", "Exception")
