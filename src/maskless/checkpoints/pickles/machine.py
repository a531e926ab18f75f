"""A pickle machine that can build plain values and records, and can do nothing else.

Python's own unpickler imports what a stream names and calls what it built; whoever writes the stream decides what runs. This one
is the opcode table of `pickletools` over a stack of plain values: it imports nothing, calls nothing but the functions of `names.py`,
and sets no attribute of anything but an `Inert` record. Before it builds anything, the whole stream is scanned for names
(`scan`), so that a refused one is found while nothing exists.
"""
from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from typing import Any

from maskless.checkpoints.pickles.names import Builder, check_key, numpy_state, resolve
from maskless.checkpoints.pickles.values import Inert, InertClass, NumpyArray, NumpyType, Refused, Storage

MAX_OPERATIONS = 4_000_000  # released files have tens of thousands
LITERALS = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"))
GETS, PUTS = frozenset(("GET", "BINGET", "LONG_BINGET")), frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
FRESH: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict,
    "EMPTY_SET": set, "BYTEARRAY8": bytes}
IGNORED = frozenset(("PROTO", "FRAME"))
FOREIGN = {
    "PERSID": "a persistent id in text form", "EXT1": "an extension code", "EXT2": "an extension code", "EXT4": "an extension code",
    "NEXT_BUFFER": "an out-of-band buffer", "READONLY_BUFFER": "an out-of-band buffer"}

Persistent = Callable[[Any], Storage]


def load(stream: BufferedIOBase, persistent: Persistent | None = None) -> Any:
    """The value of the pickle that begins here; the stream is left behind its end.

    Args:
        stream: can be read twice (it is scanned first).
        persistent: what a persistent id stands for; without it, there may be none.

    Raises:
        Refused: for a name outside the lists, an unusual use of an allowed one, or bytes that are no pickle.
    """
    start = stream.tell()
    scan(stream)
    stream.seek(start)
    return Machine(persistent).run(stream)


def operations(stream: Any) -> Iterator[tuple[str, Any]]:
    """(opcode, argument) up to STOP. Raises Refused where the bytes are no pickle."""
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= MAX_OPERATIONS:
                raise Refused(f"holds a pickle of more than {MAX_OPERATIONS:,} operations, which no checkpoint needs")
            yield opcode.name, argument
    except Refused:
        raise
    except (ValueError, KeyError, IndexError, EOFError, OverflowError, struct.error):
        raise Refused("holds a pickle that is damaged or truncated; fetch it again") from None


def scan(stream: BufferedIOBase) -> None:
    """Look at every name the stream mentions, building nothing. Raises Refused for the first that is not on the lists.

    The two strings of a STACK_GLOBAL are those pushed last, perhaps from the memo; the machine looks at the strings that are
    really there once more.
    """
    memo: dict[int, Any] = {}
    pushed: list[Any] = []
    for name, argument in operations(stream):
        if name in FOREIGN:
            raise Refused(f"uses {FOREIGN[name]}, which no checkpoint needs")
        if name in ("GLOBAL", "INST"):
            resolve(*_split(argument))
            pushed.append(None)
        elif name == "STACK_GLOBAL":
            module, attribute = [None, None, *pushed][-2:]
            if not isinstance(module, str) or not isinstance(attribute, str):
                raise Refused("names what it asks for in a roundabout way")
            resolve(module, attribute)
            pushed.append(None)
        elif name in GETS:
            pushed.append(memo.get(argument))
        elif name in PUTS:
            memo[argument] = pushed[-1] if pushed else None
        elif name == "MEMOIZE":
            memo[len(memo)] = pushed[-1] if pushed else None
        elif name not in IGNORED:
            pushed.append(argument if name in LITERALS and isinstance(argument, str) else None)
        del pushed[:-4]


def _split(argument: Any) -> tuple[str, str]:
    module, _, name = str(argument).partition(" ")
    return module, name


class Machine:
    """One run over a stack of values."""

    def __init__(self, persistent: Persistent | None) -> None:
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.table: dict[str, Callable[[], None]] = {
            "MARK": lambda: self.marks.append(len(self.stack)), "POP": self.pop_one, "POP_MARK": lambda: void(self.marked()),
            "DUP": lambda: self.push(self.top()), "MEMOIZE": lambda: self.memo.__setitem__(len(self.memo), self.top()),
            "LIST": lambda: self.push(self.marked()), "TUPLE": lambda: self.push(tuple(self.marked())),
            "DICT": lambda: self.push(self.fill({}, self.marked())), "FROZENSET": lambda: self.push(frozenset(map(check_key, self.marked()))),
            "TUPLE1": lambda: self.push(tuple(self.take(1))), "TUPLE2": lambda: self.push(tuple(self.take(2))),
            "TUPLE3": lambda: self.push(tuple(self.take(3))),
            "APPEND": lambda: self.extend(self.take(1)), "APPENDS": lambda: self.extend(self.marked()), "ADDITEMS": self.add_items,
            "SETITEM": lambda: void(self.fill_top(self.take(2))), "SETITEMS": lambda: void(self.fill_top(self.marked())),
            "STACK_GLOBAL": lambda: self.push(self.named(*self.take(2))), "REDUCE": self.reduce, "NEWOBJ": self.reduce,
            "NEWOBJ_EX": self.new_with_keywords, "OBJ": self.instance, "BUILD": self.build, "BINPERSID": self.stored,
        }

    def run(self, stream: BufferedIOBase) -> Any:
        stack, memo = self.stack, self.memo
        for name, argument in operations(stream):
            if name in LITERALS:
                stack.append(argument)
            elif name in PUTS and stack:
                memo[argument] = stack[-1]
            elif name in GETS and argument in memo:
                stack.append(memo[argument])
            elif name in GETS or name in PUTS:
                raise Refused("holds a pickle that remembers what it never saw")
            elif name in FRESH:
                self.push(FRESH[name]() if name != "BYTEARRAY8" else bytes(argument))
            elif name == "GLOBAL":
                self.push(resolve(*_split(argument)))
            elif name == "INST":
                self.push(call(resolve(*_split(argument)), self.marked()))
            elif name == "STOP":
                return self.take(1)[0]
            elif name in self.table:
                self.table[name]()
            elif name not in IGNORED:
                raise Refused(f"uses {FOREIGN.get(name, name)}, which no checkpoint needs")
        raise Refused("holds a pickle without an end; fetch it again")

    # -- the stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def top(self) -> Any:
        if not self.stack:
            raise Refused("holds a pickle that takes more than it has")
        return self.stack[-1]

    def take(self, count: int) -> list[Any]:
        """The newest `count` values, which must lie above the last mark."""
        at = len(self.stack) - count
        if at < (self.marks[-1] if self.marks else 0):
            raise Refused("holds a pickle that takes more than it has")
        taken = self.stack[at:]
        del self.stack[at:]
        return taken

    def marked(self) -> list[Any]:
        """The values above the last mark, which goes."""
        if not self.marks:
            raise Refused("holds a pickle that takes more than it has")
        at = self.marks.pop()
        taken = self.stack[at:]
        del self.stack[at:]
        return taken

    def pop_one(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.take(1)

    # -- containers

    def extend(self, values: list[Any]) -> None:
        kept = self.top()
        if isinstance(kept, list):
            kept.extend(values)
        elif isinstance(kept, Inert):
            kept.items.extend(values)
        else:
            raise Refused(f"appends to a {described(kept)}")

    def add_items(self) -> None:
        values, kept = self.marked(), self.top()
        if not isinstance(kept, set):
            raise Refused(f"adds to a {described(kept)}")
        kept.update(map(check_key, values))

    def fill_top(self, pairs: list[Any]) -> Any:
        return self.fill(self.top(), pairs)

    def fill(self, kept: Any, pairs: list[Any]) -> Any:
        if len(pairs) % 2 or not isinstance(kept, dict | Inert):
            raise Refused(f"sets items of a {described(kept)}")
        for key, value in zip(pairs[::2], pairs[1::2]):
            if isinstance(kept, dict):
                kept[key if type(key) is str else check_key(key)] = value
            else:
                kept.items.append((key, value))
        return kept

    # -- names and objects

    def named(self, module: Any, name: Any) -> Any:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("names what it asks for in a roundabout way")
        return resolve(module, name)

    def reduce(self) -> None:
        callee, arguments = self.take(2)
        self.push(call(callee, arguments))

    def new_with_keywords(self) -> None:
        callee, arguments, keywords = self.take(3)
        if keywords and not isinstance(callee, InertClass):
            raise Refused(f"makes a {described(callee)} with keywords")
        self.push(call(callee, arguments))
        if keywords:
            self.stack[-1].state = keywords

    def instance(self) -> None:
        callee, *arguments = self.marked() or [None]
        self.push(call(callee, arguments))

    def build(self) -> None:
        """State of what was made last: of an inert record it is kept, of a mapping dropped, of anything else refused."""
        state = self.take(1)[0]
        kept = self.top()
        if isinstance(kept, Inert):
            kept.state = state
        elif isinstance(kept, NumpyType):
            numpy_state(kept, state)
        elif isinstance(kept, NumpyArray) and isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], NumpyType):
            kept.state = state
        elif not isinstance(kept, dict):  # OrderedDict carries `_metadata`: versions of modules
            raise Refused(f"sets the state of a {described(kept)}")

    def stored(self) -> None:
        if self.persistent is None:
            raise Refused("refers to bytes outside itself")
        self.push(self.persistent(self.take(1)[0]))


def call(callee: Any, arguments: Any) -> Any:
    """What a class or function of the stream would make: by our function for it, or as a record."""
    if not isinstance(arguments, list | tuple):
        raise Refused(f"calls a {described(callee)} with a {described(arguments)}")
    if isinstance(callee, InertClass):
        return Inert(callee.name, tuple(arguments))
    if not isinstance(callee, Builder):
        raise Refused(f"calls a {described(callee)}")
    try:
        return callee.build(*arguments)
    except Refused as error:
        raise Refused(f"{error} ({callee.name})") from None
    except (TypeError, ValueError, OverflowError):
        raise Refused(f"calls {callee.name} with arguments that no checkpoint gives it") from None


def described(value: Any) -> str:
    return value.name if isinstance(value, Builder | InertClass | Inert) else type(value).__name__


def void(_: Any) -> None:
    """A statement where an expression stands."""
