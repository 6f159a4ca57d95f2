"""Pickles read as data: a small stack machine that calls nothing and imports nothing.

A pickle is a program; Python's own reader runs it. This one only follows the few operations that weights files
consist of. A class or function that the pickle names stays a name (`Name`), a call of it stays a record (`Call`), and a
name that is not on the caller's list ends the reading. Tensors come out as claims (`TensorClaim`): where the numbers
should be, not the numbers.

Source: Python's `pickletools` for the operations; the layout of torch 2.11's `_rebuild_tensor_v2` for tensors.
"""

import math
import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

OPERATIONS = 2_000_000
NUMBER_DIGITS = 64
"""Bytes of a whole number."""

TENSOR_NAMES = frozenset(
    {"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor", "torch._utils._rebuild_parameter"}
)
ARRAY_NAMES = frozenset(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core"))
DICT_NAME = "collections.OrderedDict"
STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
STORAGE_NAMES = {f"{place}.{name}": kind for name, kind in STORAGES.items() for place in ("torch", "torch.cuda")}
SCRIPT_NAMES = frozenset(
    f"torch.jit._pickle.{name}"
    for name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
)
SCRIPT_CLASSES = "__torch__."
"""Prefix of the classes that a TorchScript archive defines itself; their code is never looked at."""


class PickleRefusedError(Exception):
    """The pickle names something foreign, or is not what a weights file consists of."""


@dataclass(frozen=True)
class Name:
    """A class or function that the pickle names."""

    path: str


@dataclass(eq=False)
class Call:
    """What the pickle would have called or built, with the state that it would have set."""

    name: str
    arguments: Any
    state: Any = None


@dataclass(frozen=True)
class StorageClaim:
    """A run of numbers that the file says it holds."""

    key: str
    dtype: str
    elements: int


@dataclass(frozen=True)
class TensorClaim:
    """A tensor that the file says it holds."""

    storage: StorageClaim
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class ArrayClaim:
    """A NumPy array that stands in the pickle itself."""

    dtype: str
    """As NumPy spells it: "<f4"."""
    shape: tuple[int, ...]
    content: bytes


_MARK = object()
_PLAIN = [
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINSTRING",
    "SHORT_BINSTRING",
]
"""Operations that only push a number, a text or bytes."""
_Step = Callable[[Any], None]


class PickleBytes(Protocol):
    """What the machine reads from."""

    def read(self, length: int) -> bytes: ...

    def readline(self) -> bytes: ...


class InertMachine:
    """Follows one pickle.

    Args:
        inert_names: names allowed besides those of tensors, storages and ordered dictionaries; they stay records.
        scripted: allow the names of a TorchScript archive.
    """

    def __init__(self, *, inert_names: Collection[str] = (), scripted: bool = False) -> None:
        self._inert = inert_names
        self._scripted = scripted
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._steps = self._table()

    def run(self, file: PickleBytes) -> Any:
        """The value of the pickle that begins where `file` stands; `file` then stands behind it.

        Args:
            file: gives what it has where more is asked for, and takes no memory for the rest.
        Raises: PickleRefusedError.
        """
        try:
            for count, (opcode, argument, position) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
                if count > OPERATIONS:
                    raise PickleRefusedError(f"more than {OPERATIONS:,} operations")
                if opcode.name == "STOP":
                    return self._stack.pop()
                step = self._steps.get(opcode.name)
                if step is None:
                    raise PickleRefusedError(f"operation {opcode.name} at byte {position}")
                step(argument)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, UnicodeError) as error:
            raise PickleRefusedError(f"not a well-formed pickle ({type(error).__name__}: {error})") from error
        raise PickleRefusedError("not a well-formed pickle (no end)")

    def _table(self) -> dict[str, _Step]:
        push = self._stack.append
        steps: dict[str, _Step] = dict.fromkeys(_PLAIN, self._push_plain)
        steps |= {"NONE": lambda _: push(None), "NEWTRUE": lambda _: push(True), "NEWFALSE": lambda _: push(False)}
        steps |= {"EMPTY_DICT": lambda _: push({}), "EMPTY_LIST": lambda _: push([]), "EMPTY_TUPLE": lambda _: push(())}
        steps |= {"TUPLE1": lambda _: push(tuple(self._last(1))), "TUPLE2": lambda _: push(tuple(self._last(2)))}
        steps |= {"TUPLE3": lambda _: push(tuple(self._last(3))), "MARK": lambda _: push(_MARK)}
        steps |= {"PROTO": _nothing, "FRAME": _nothing, "POP": lambda _: _drop(self._stack.pop())}
        steps |= {"TUPLE": lambda _: push(tuple(self._to_mark())), "LIST": lambda _: push(self._to_mark())}
        steps |= {"BINPUT": self._put, "LONG_BINPUT": self._put, "MEMOIZE": lambda _: self._put(len(self._memo))}
        steps |= {"BINGET": self._get, "LONG_BINGET": self._get}
        steps |= {"SETITEM": lambda _: self._set_items(self._last(2)), "APPEND": lambda _: self._extend(self._last(1))}
        steps |= {"SETITEMS": lambda _: self._set_items(self._to_mark())}
        steps |= {"APPENDS": lambda _: self._extend(self._to_mark())}
        steps |= {"GLOBAL": lambda text: push(self._named(*str(text).split(" ", 1)))}
        steps |= {"STACK_GLOBAL": lambda _: push(self._named(*self._last(2)))}
        steps |= {"REDUCE": lambda _: push(self._called(*self._last(2)))}
        steps |= {"NEWOBJ": lambda _: push(self._called(*self._last(2)))}
        return steps | {"BUILD": self._build, "BINPERSID": lambda _: push(_storage(self._stack.pop()))}

    def _push_plain(self, value: Any) -> None:
        if isinstance(value, int) and value.bit_length() > 8 * NUMBER_DIGITS:
            raise PickleRefusedError("a whole number of more than 64 bytes")
        self._stack.append(value)

    def _last(self, count: int) -> list[Any]:
        items = self._stack[-count:]
        if len(items) < count or any(item is _MARK for item in items):
            raise PickleRefusedError("not a well-formed pickle (stack)")
        del self._stack[-count:]
        return items

    def _to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _put(self, index: Any) -> None:
        self._memo[int(index)] = self._stack[-1]

    def _get(self, index: Any) -> None:
        self._stack.append(self._memo[int(index)])

    def _set_items(self, pairs: list[Any]) -> None:
        table = self._stack[-1]
        if not isinstance(table, dict) or len(pairs) % 2:
            raise PickleRefusedError("not a well-formed pickle (items)")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | int | float | bool | bytes | type(None)):
                raise PickleRefusedError(f"a table with a {type(key).__name__} for a key")
            table[key] = value

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise PickleRefusedError("not a well-formed pickle (list)")
        self._stack[-1].extend(items)

    def _named(self, module: str, name: str) -> Name:
        path = f"{module}.{name}"
        plain = path in TENSOR_NAMES or path in STORAGE_NAMES or path == DICT_NAME or path in self._inert
        script = self._scripted and (path.startswith(SCRIPT_CLASSES) or path in SCRIPT_NAMES)
        if not plain and not script:
            raise PickleRefusedError(f"it names {path}, which is no part of a weights file")
        return Name(path)

    def _called(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise PickleRefusedError("it calls something that is not a name")
        if function.path == DICT_NAME:
            return _ordered_dict(arguments)
        if function.path == "torch._utils._rebuild_parameter":
            return arguments[0]
        if function.path in TENSOR_NAMES:
            return _tensor(arguments)
        if function.path in SCRIPT_NAMES:
            return arguments[0]
        return Call(function.path, arguments)

    def _build(self, _: Any) -> None:
        target, state = self._last(2)
        self._stack.append(target)
        if isinstance(target, Call):
            target.state = state
        elif not isinstance(target, dict):  # an ordered dictionary's attributes (`_metadata`) are of no use here
            raise PickleRefusedError(f"it sets the state of a {type(target).__name__}")


def _nothing(_: Any) -> None:
    """An operation without effect: protocol number, frame."""


def _drop(_: Any) -> None:
    """A value that the pickle throws away."""


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments not in ((), ([],)):
        raise PickleRefusedError("an ordered dictionary with contents in its constructor")
    return {}


def _storage(claim: Any) -> StorageClaim:
    fine = isinstance(claim, tuple) and len(claim) in (5, 6) and claim[0] == "storage" and claim[5:] in ((), (None,))
    if not fine or not isinstance(claim[1], Name) or claim[1].path not in STORAGE_NAMES:
        raise PickleRefusedError("a storage in a form that is not known")
    return StorageClaim(str(claim[2]), STORAGE_NAMES[claim[1].path], _count(claim[4]))


def _tensor(arguments: tuple[Any, ...]) -> TensorClaim:
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, StorageClaim) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise PickleRefusedError("a tensor in a form that is not known")
    sizes, steps = tuple(_count(size) for size in shape), tuple(_count(step) for step in strides)
    if len(sizes) != len(steps) or len(sizes) > 16:
        raise PickleRefusedError(f"a tensor of shape {sizes} with strides {steps}")
    return TensorClaim(storage, _count(offset), sizes, steps)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**48:
        raise PickleRefusedError(f"{value!r} where a size is wanted")
    return value


def array_claim(call: Call) -> ArrayClaim | None:
    """The array that a pickled call of NumPy makes; None for any other call or type of number.

    Source: what `ndarray.__reduce__` of NumPy 1 and 2 writes.
    """
    state = call.state
    if call.name not in ARRAY_NAMES or not isinstance(state, tuple) or len(state) != 5:
        return None
    _, shape, dtype, fortran, content = state
    plain = isinstance(dtype, Call) and dtype.name == "numpy.dtype" and dtype.arguments[:1] in (("f4",), ("f8",))
    little = plain and isinstance(dtype.state, tuple) and dtype.state[1:2] == ("<",)
    if not little:
        return None
    if isinstance(content, Call) and content.name == "_codecs.encode" and content.arguments[1:] == ("latin1",):
        content = str(content.arguments[0]).encode("latin1")  # how protocol 2 spells bytes
    if fortran is not False or not isinstance(shape, tuple) or not isinstance(content, bytes):
        return None
    sizes = tuple(_count(size) for size in shape)
    if math.prod(sizes) * int(dtype.arguments[0][1]) != len(content):
        raise PickleRefusedError(f"an array of shape {sizes} with {len(content):,} bytes")
    return ArrayClaim(f"<{dtype.arguments[0]}", sizes, content)
