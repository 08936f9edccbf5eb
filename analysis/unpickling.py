"""An unpickler that runs nothing: what a file names beyond the table `KNOWN` becomes an `Inert` object."""

import pickle
from collections import OrderedDict
from collections.abc import Callable, Collection
from types import FunctionType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.serialization import StorageType


class Inert(dict):
    """Stands for a class, function or object that a file names: keeps items and attributes, does nothing."""

    def __init__(self, name: str, args: Any = ()) -> None:
        super().__init__()
        self.name, self.args, self.state = name, args, None

    __hash__ = object.__hash__  # type: ignore[assignment]  # may be a key
    __eq__ = object.__eq__

    def append(self, *_: Any) -> None:
        """The elements of unknown lists and sets are not kept."""

    add = extend = append


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """A tensor as torch._utils._rebuild_tensor(_v2) makes it, without its hooks."""
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError("a tensor without a storage")
    metadata = rest[2] if len(rest) > 2 else None
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict(), metadata)


def _tensor_of_dtype(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """A tensor as _rebuild_tensor_v3 makes it: float8 and unsigned types, which have no typed storage."""
    if not isinstance(storage, torch.storage.TypedStorage) or not isinstance(rest[2], torch.dtype):
        raise pickle.UnpicklingError("a tensor without a storage")
    return torch._utils._rebuild_tensor_v3(storage, offset, size, stride, False, OrderedDict(), rest[2])


def _numpy_scalar(dtype: Any, data: Any = b"", *_: Any) -> Any:
    """A Python number for a NumPy bool, integer or float; anything else stays inert."""
    match getattr(dtype, "args", None), getattr(dtype, "state", None), data:
        case [str(code), *_], (_, "<" | ">" | "|" as order, *_), bytes() | str() if code[0] in "biuf":
            data = data.encode("latin1") if isinstance(data, str) else data  # Python 2 has no bytes
            return np.frombuffer(data, np.dtype(code).newbyteorder(order))[0].item()
    return Inert("numpy scalar")


KNOWN: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": lambda function, _type, args, *_: _construct(function, args),
    "torch.nn.parameter.Parameter": lambda data, *_: data,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "collections.OrderedDict": lambda *items: dict(*items),
    "collections.defaultdict": lambda _factory=None, *items: dict(*items),
    "builtins.set": lambda items=(): set(items),
    "__builtin__.set": lambda items=(): set(items),  # its name in pickle protocol 2
    "_codecs.encode": lambda text, *_: text.encode("latin1"),  # bytes in pickle protocol 2
    "numpy.dtype": lambda *args: Inert("numpy.dtype", args),
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "torch.storage.UntypedStorage": torch.UntypedStorage,
    **{f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
}
UNREAD = [code[0] for code in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.NEXT_BUFFER)]


def _construct(what: Any, args: Any) -> Any:
    """An inert object of an inert class, or the value of one of our functions; nothing else is called."""
    if isinstance(what, Inert):
        return Inert(what.name, args)
    if isinstance(what, FunctionType) and what in KNOWN.values():
        return what(*args)
    raise pickle.UnpicklingError(f"a call of a {type(what).__name__}")


class InertUnpickler(pickle._Unpickler):
    """An unpickler in which no opcode imports, calls or alters anything but the data that it builds.

    It extends the standard library's Python version; the C version does not let REDUCE, NEWOBJ and BUILD be
    replaced. `names` gains what became inert.
    """

    names: dict[str, None]
    stack: list[Any]

    def __init__(self, file: Any, **_: Any) -> None:
        super().__init__(file, encoding="latin1")  # strings of Python 2 may hold any byte

    def find_class(self, module: str, name: str) -> Any:
        full = shown(f"{module}.{name}")
        if full in KNOWN:
            return KNOWN[full]
        self.names[full] = None
        return Inert(full)

    def _instantiate(self, what: Any, args: Any) -> None:  # of the opcodes INST and OBJ
        self.stack.append(_construct(what, args))

    def _reduce(self) -> None:
        args = self.stack.pop()
        self.stack.append(_construct(self.stack.pop(), args))

    def _reduce_with_keywords(self) -> None:
        self.stack.pop()
        self._reduce()

    def _build(self) -> None:
        """Inert objects keep their state; whatever else the stream wants to alter stays as it is."""
        state = self.stack.pop()
        if isinstance(inert := self.stack[-1], Inert):
            inert.state = state
            for part in state if isinstance(state, tuple) else (state,):  # (attributes, slots)
                inert.update(part if isinstance(part, dict) else {})

    def _persistent(self) -> None:
        match self.stack.pop():
            case ("module", kind, *_):  # torch would compare the source of the class, and write a patch file
                self.stack.append(kind)
            case ("storage", kind, str() | int(), str(), int(), *_) as storage if (
                kind is torch.UntypedStorage or isinstance(kind, StorageType)
            ):
                self.stack.append(self.persistent_load(storage))
            case _:
                raise pickle.UnpicklingError("a persistent id that is no storage")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{code: read for code, read in pickle._Unpickler.dispatch.items() if code not in UNREAD},
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.NEWOBJ_EX[0]: _reduce_with_keywords,
        pickle.BUILD[0]: _build,
        pickle.BINPERSID[0]: _persistent,
    }


def some(names: Collection[str], most: int = 3) -> str:
    """The first few names, quoted, and how many more there are."""
    listed = ", ".join(f"'{shown(name)}'" for name in list(names)[:most])
    return listed + (f" and {len(names) - most} more" if len(names) > most else "")


def shown(name: str) -> str:
    """A name out of a file as one short line of plain characters."""
    return ascii(name)[1:-1][:100]
