"""A state dict fitted onto a model, strictly by name and shape."""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from .errors import CheckpointError
from .reading import CheckpointFile, StateDict
from .unpickling import shown, some


@dataclass(frozen=True)
class FittedState:
    """A state dict in the model's canonical names.

    prefix: what was taken off the file's names. key: path of the state dict in the file. unused: the file's
    names outside the prefix.
    """

    tensors: dict[str, Tensor]
    prefix: str
    key: str
    unused: tuple[str, ...]


def fit_state_dict(
    file_or_statedict: CheckpointFile | StateDict,
    expected: Mapping[str, torch.Size],
    aliases: Mapping[str, str] = MappingProxyType({}),
    optional: Collection[str] = (),
    key: str | None = None,
) -> FittedState:
    """The one state dict that fits a model, strictly by name and shape.

    expected: shape of every entry of the model's state dict. aliases: further name -> canonical name of tied
    weights, of which the file needs one. optional: names that the file may lack. key: which state dict, by
    path in the file or by path and prefix ("state_dict.ema_model").

    The names must agree one to one after some prefix ("module.", "model.", any other) is taken off or,
    failing that, after "module." and "_orig_mod." are taken out wherever they stand.

    Raises CheckpointError if nothing fits (naming the closest state dict and the first differences), if
    several state dicts fit, or if there is no `key`.
    """
    if isinstance(file_or_statedict, StateDict):
        given = {file_or_statedict.path: file_or_statedict}
        file_or_statedict = CheckpointFile(Path("The state dict"), given, {}, ())
    state_dicts, source = file_or_statedict.state_dicts, file_or_statedict.source.name
    model = _Model(expected, aliases, optional)
    chosen = [state_dicts[key]] if key in state_dicts else state_dicts.values()
    trials = [trial for state_dict in chosen for trial in model.trials(state_dict)]
    if key is not None and key not in state_dicts:
        trials = [trial for trial in trials if trial.label == key]
        if not trials:
            available = f"Available: {some(state_dicts, 20)}; '' is the top level."
            raise CheckpointError(f"{source} has no state dict '{shown(key)}'. {available}")
    fits = [trial.fitted for trial in trials if not trial.differences]
    if not fits:
        closest = min(trials, key=lambda trial: trial.distance)
        raise CheckpointError(f"{source} does not fit the model. {closest.explain(file_or_statedict)}")
    if not all(_same_memory(fits[0].tensors, other.tensors) for other in fits[1:]):
        labels = [trial.label for trial in trials if not trial.differences]
        choose = f"Choose one, for example key='{shown(labels[0])}'."
        raise CheckpointError(f"{source}: {len(labels)} state dicts fit the model: {some(labels, 20)}. {choose}")
    return fits[0]


@dataclass(frozen=True)
class _Trial:
    """A state dict read under one prefix; `distance` counts what is missing, then size, then excess."""

    fitted: FittedState
    differences: list[str]
    distance: tuple[int, int, int]

    @property
    def label(self) -> str:
        return ".".join(filter(None, (self.fitted.key, self.fitted.prefix.rstrip("."))))

    def explain(self, file: CheckpointFile) -> str:
        text = f"Closest is '{shown(self.label)}': " if self.label else "In its top level "
        text += "; ".join(self.differences) + ". "
        if not self.fitted.tensors:
            text += "No name agrees: the file is of another architecture, or its names were changed."
        else:
            text += "Build the model as it was for training, or rename or delete entries and save the file anew."
        text += f" Not loaded: {some(file.placeholders)}." if file.placeholders else ""
        others = [path or "(top level)" for path in file.state_dicts if path != self.fitted.key]
        return text + (f" Other state dicts in it: {some(others, 10)}." if others else "")


class _Model:
    """What a state dict must agree with."""

    def __init__(
        self, expected: Mapping[str, torch.Size], aliases: Mapping[str, str], optional: Collection[str]
    ) -> None:
        self.expected = expected
        self.ties = {name: [name] for name in expected if name not in aliases}
        for alias, canonical in aliases.items():
            self.ties[canonical].append(alias)
        self.optional = {canonical for canonical, names in self.ties.items() if not set(optional).isdisjoint(names)}

    def trials(self, state_dict: StateDict) -> list[_Trial]:
        """The state dict under each prefix that could fit, in its own names or else without wrappers."""
        trials: list[_Trial] = []
        for rename in (str, _unwrapped):
            ours = {rename(name): name for name in self.expected}
            theirs = {rename(name): name for name in state_dict.tensors}
            if len(ours) < len(self.expected) or len(theirs) < len(state_dict.tensors):
                continue  # two names became one
            matches = Counter({"": 0})
            for name in theirs:
                cuts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
                matches.update(name[:cut] for cut in cuts if name[cut:] in ours)
            enough = min(len(self.ties) - len(self.optional), max(matches.values()))
            prefixes = [prefix for prefix, count in matches.items() if count >= enough]
            trials += [self._trial(state_dict, prefix, theirs, ours) for prefix in prefixes]
            if not all(trial.differences for trial in trials):
                break
        return trials

    def _trial(self, state_dict: StateDict, prefix: str, theirs: dict[str, str], ours: dict[str, str]) -> _Trial:
        inside = {name.removeprefix(prefix): raw for name, raw in theirs.items() if name.startswith(prefix)}
        tensors = {ours[name]: state_dict.tensors[raw] for name, raw in inside.items() if name in ours}
        present = {name: [tied for tied in names if tied in tensors] for name, names in self.ties.items()}
        missing = [name for name, names in present.items() if not names and name not in self.optional]
        extra = [raw for name, raw in inside.items() if name not in ours]
        shapes = [name for name, tensor in tensors.items() if tensor.shape != self.expected[name]]
        differences = [f"missing are {some(missing)}"] if missing else []
        differences += [f"the model does not have {some(extra)}"] if extra else []
        for name in shapes[:1]:
            sizes = f"{list(tensors[name].shape)} in the file and {list(self.expected[name])} in the model"
            differences += [f"shapes that differ: {len(shapes)}, first '{shown(name)}', {sizes}"]
        for names in present.values():
            if not differences and any(not _equal(tensors[names[0]], tensors[name]) for name in names[1:]):
                differences += [f"the model ties {some(names)}, which the file holds apart: their values differ"]
        fitted = FittedState(
            {name: tensors[names[0]] for name, names in present.items() if names},
            prefix,
            state_dict.path,
            tuple(raw for name, raw in theirs.items() if not name.startswith(prefix)),
        )
        distance = (len(missing) + len(shapes), -len(state_dict.tensors), len(extra))
        return _Trial(fitted, differences, distance)


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in ("module", "_orig_mod"))


def _equal(a: Tensor, b: Tensor) -> bool:
    """Equal in dtype and in every bit, so that NaN equals itself."""
    bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b)]
    return a.dtype == b.dtype and torch.equal(*bits)


def _same_memory(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """One state dict that the file holds at two paths leaves no choice to make."""
    return a.keys() == b.keys() and all(
        (tensor.data_ptr(), tensor.stride()) == (b[name].data_ptr(), b[name].stride()) for name, tensor in a.items()
    )
