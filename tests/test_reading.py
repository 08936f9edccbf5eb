"""Checkpoint files: what is read from them has the right values, and nothing in them ever runs."""

import argparse
import collections
import contextlib
import copyreg
import enum
import functools
import os
import pathlib
import pickle
import random
import tarfile
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from analysis import reading, unpickling
from analysis.errors import CheckpointError
from analysis.fitting import fit_state_dict
from analysis.reading import CheckpointFile, StateDict, read_checkpoint


class Colour(enum.Enum):
    RED = 1


class Config(dict):
    """A dict of a class of the user's, as OmegaConf and many trainers write."""


class Net(nn.Module):
    """Tied weights, BatchNorm, a buffer that is not saved, nested modules."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("grid", torch.arange(3.0), persistent=False)
        self.register_buffer("scale", torch.tensor(0.25))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def save(tmp_path):
    """Write an object with torch.save, in the zip format or in the one before PyTorch 1.6."""

    def save(content, name="model.pt", *, legacy=False, **options):
        path = tmp_path / name
        torch.save(content, path, _use_new_zipfile_serialization=not legacy, **options)
        return path

    return save


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "fc.weight": torch.randn(3, 2, generator=generator),
        "fc.bias": torch.randn(3, generator=generator),
    }


def shapes(tensors):
    return {name: tensor.shape for name, tensor in tensors.items()}


def assert_same(tensors, expected):
    assert list(tensors) == list(expected)
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor), name
        assert not tensors[name].requires_grad
        assert type(tensors[name]) is torch.Tensor


pytestmark = pytest.mark.filterwarnings(
    "ignore:Detected pickle protocol",
    "ignore:Couldn't retrieve source code",
    "ignore:TypedStorage is deprecated",
)
both_formats = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


# ---- formats


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.th", "a.ckpt", "a.bin", "a", "a.safetensors"])
@both_formats
def test_torch_files_are_read_whatever_their_extension(save, name, legacy):
    file = read_checkpoint(save(weights(), name, legacy=legacy))
    assert list(file.state_dicts) == [""]
    assert_same(file.state_dicts[""].tensors, weights())
    assert file.placeholders == ()


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_safetensors_are_read_whatever_their_extension(tmp_path, name):
    safetensors.torch.save_file(weights(), tmp_path / name, metadata={"format": "pt", "step": "40"})
    file = read_checkpoint(str(tmp_path / name))
    tensors = file.state_dicts[""].tensors
    assert_same({key: tensors[key] for key in weights()}, weights())
    assert file.info == {"format": "pt", "step": "40"}


def test_dtypes_views_and_shared_storages_keep_their_values(save):
    base = torch.arange(12.0)
    state = {
        "half": torch.ones(2, dtype=torch.bfloat16),
        "double": torch.tensor([1e-300], dtype=torch.float64),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "left": base[:6].view(2, 3),
        "right": base[6:].view(3, 2).t(),
        "small": torch.tensor([1, 2], dtype=torch.uint16),
        "empty": torch.empty(0, 3),
    }
    for extra in ({}, {"args": argparse.Namespace()}):  # read by torch, then by the unpickler of our own
        assert_same(read_checkpoint(save({"state": state, **extra})).state_dicts["state"].tensors, state)


def test_tensors_do_not_change_when_the_file_is_overwritten(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(weights(), path)
    tensors = read_checkpoint(path).state_dicts[""].tensors
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(tensors["fc.weight"], weights()["fc.weight"])


# ---- objects of foreign classes


@pytest.mark.parametrize(
    ("harmless", "placeholder"),
    [
        (argparse.Namespace(lr=0.1, name="run"), "argparse.Namespace"),
        (pathlib.PurePosixPath("/data"), "pathlib.PurePosixPath"),
        (Colour.RED, f"{__name__}.Colour"),
        (Config(a=1, b=[2, 3]), f"{__name__}.Config"),
        (collections.deque([1, 2]), "collections.deque"),
        (np.arange(3), "numpy."),
        (functools.partial(print, 1), "functools.partial"),
        ({1, 2}, None),
        (collections.OrderedDict(a=1), None),
        (collections.defaultdict(list, a=[1]), None),
        (np.float64(0.5), None),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
@both_formats
def test_foreign_objects_become_placeholders_and_the_tensors_are_read(save, harmless, placeholder, protocol, legacy):
    path = save({"extra": harmless, "model": weights(), "epoch": 3}, legacy=legacy, pickle_protocol=protocol)
    file = read_checkpoint(path)
    assert_same(file.state_dicts["model"].tensors, weights())
    assert file.info == {"epoch": 3}
    assert placeholder is None or any(name.startswith(placeholder) for name in file.placeholders)


@both_formats
def test_state_dicts_inside_foreign_objects_are_found(save, legacy):
    content = {"run": argparse.Namespace(state=Config(weights())), "parts": [weights(1), (weights(2),)]}
    file = read_checkpoint(save(content, legacy=legacy))
    assert list(file.state_dicts) == ["run.state", "parts.0", "parts.1.0"]
    assert_same(file.state_dicts["run.state"].tensors, weights())
    assert_same(file.state_dicts["parts.1.0"].tensors, weights(2))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("place", ["", "ema"])
@both_formats
def test_a_whole_pickled_module_gives_its_state_dict(save, model, legacy, place, protocol):
    content = {place: model, "args": argparse.Namespace()} if place else model
    file = read_checkpoint(save(content, legacy=legacy, pickle_protocol=protocol))
    assert list(file.state_dicts) == [place]
    assert_same(file.state_dicts[place].tensors, model.state_dict())
    assert f"{__name__}.Net" in file.placeholders


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_tensors_without_plain_values_are_named(save):
    quantised = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    file = read_checkpoint(save({**weights(), "q": quantised, "s": torch.eye(2).to_sparse()}))
    assert list(file.state_dicts[""].tensors) == list(weights())
    assert file.placeholders == ("torch.Tensor (quantised)", "torch.Tensor (cpu, torch.sparse_coo)")
    with pytest.raises(CheckpointError, match=r"missing are 'q'. .*Not loaded: 'torch.Tensor \(quantised\)'"):
        fit_state_dict(file, {**shapes(weights()), "q": torch.Size([2])})


# ---- nothing runs


class Raw:
    """Opcodes that leave one object on the unpickler's stack, put into a pickle as they are."""

    def __init__(self, code):
        self.code = code


class RawPickler(pickle._Pickler):
    def save(self, value, *args, **options):
        if isinstance(value, Raw):
            self.write(value.code)
        else:
            super().save(value, *args, **options)


def save_raw(path, content, legacy):
    def dump(value, file, protocol):
        RawPickler(file, protocol).dump(value)

    module = SimpleNamespace(__name__="raw", Pickler=RawPickler, dump=dump)
    torch.save(content, path, pickle_module=module, _use_new_zipfile_serialization=not legacy)
    return path


def text(string):
    return b"X" + len(string.encode()).to_bytes(4, "little") + string.encode()


def call(name, *arguments):
    return b"c" + name.replace(" ", "\n").encode() + b"\n(" + b"".join(arguments) + b"tR"


def attacks(marker):
    """Opcodes by name, each of which creates the file `marker` when Python's pickle reads them."""
    touch, system = text(f"touch '{marker}'"), b"cos\nsystem\n"
    opened = text(f"open({str(marker)!r}, 'w')")
    chain = call("builtins getattr", call("importlib import_module", text("os")), text("system"))
    stream = b"".join(
        pickle.dumps(part, 2) if not isinstance(part, bytes) else b"\x80\x02" + part + b"."
        for part in (MAGIC_NUMBER, PROTOCOL_VERSION, {}, call("os system", touch), [])
    )
    empty = b"cargparse\nNamespace\n)\x81"
    return {
        "call": call("os system", touch),
        "eval": call("builtins eval", opened),
        "exec in Python 2's module": call("__builtin__ exec", opened),
        "open": call("builtins open", text(str(marker)), text("w")),
        "getattr chain": chain + b"(" + touch + b"tR",
        "name from the stack": text("os") + text("system") + b"\x93(" + touch + b"tR",
        "opcode OBJ": b"(" + system + touch + b"o",
        "opcode INST": b"(" + touch + b"ios\nsystem\n",
        "opcode EXT1": b"\x82\xf0(" + touch + b"tR",
        "a planted __setstate__": empty + b"}" + text("__setstate__") + system + b"sb" + touch + b"b",
        "tensor of a foreign function": call(
            "torch._tensor _rebuild_from_type_v2", system, b"ctorch\nTensor\n", b"(" + touch + b"t", b"}"
        ),
        "a checkpoint in a storage": call(
            "torch.storage _load_from_bytes", b"B" + len(stream).to_bytes(4, "little") + stream
        ),
        "an item of a known class": call("collections OrderedDict", b"]" + call("os system", touch) + b"a"),
        "a lazy call": call("builtins list", call("builtins map", system, b"]" + touch + b"a")),
    }


@pytest.fixture
def extension():
    """An extension code of the pickle format that stands for os.system."""
    copyreg.add_extension("os", "system", 0xF0)
    yield
    copyreg.remove_extension("os", "system", 0xF0)


@pytest.mark.parametrize("attack", attacks("x"))
@both_formats
def test_no_code_in_a_file_runs(tmp_path, extension, attack, legacy):
    marker = tmp_path / "it ran"
    code = attacks(marker)[attack]
    with contextlib.suppress(Exception):
        pickle.loads(b"\x80\x02" + code + b".")
    assert marker.exists(), "the attack must work where nothing defends"
    marker.unlink()

    content = {"model": {**weights(), "x": Raw(code)}, "args": Raw(code)}
    path = save_raw(tmp_path / "evil.pt", content, legacy)
    try:
        assert_same(read_checkpoint(path).state_dicts["model"].tensors, weights())
    except CheckpointError:
        assert attack in ("opcode EXT1", "an item of a known class")
    assert not marker.exists()


@both_formats
def test_no_file_alters_a_function_or_a_class_that_readers_use(tmp_path, legacy):
    for name in ("torch._utils _rebuild_tensor_v2", "torch.nn.parameter Parameter", "collections Counter"):
        state = b"N}" + text("planted") + b"K\x01s\x86b"
        code = b"c" + name.replace(" ", "\n").encode() + b"\n" + state
        path = save_raw(tmp_path / "evil.pt", {**weights(), "x": Raw(code)}, legacy)
        assert_same(read_checkpoint(path).state_dicts[""].tensors, weights())
    touched = [*unpickling.KNOWN.values(), torch._utils._rebuild_tensor_v2, nn.Parameter, unpickling.Inert]
    assert not any(hasattr(value, "planted") for value in touched)


def test_the_unpickler_calls_nothing_but_its_own_functions():
    for known in (
        torch.UntypedStorage,
        torch.float32,
        torch.serialization.StorageType,
        os.getcwd,
        len,
        lambda: 1,
    ):
        with pytest.raises(pickle.UnpicklingError, match="a call of a"):
            unpickling._construct(known, ())
    inert = unpickling._construct(unpickling.Inert("os.getcwd"), ())
    assert (type(inert), inert.name, dict(inert)) == (unpickling.Inert, "os.getcwd", {})


MODULE = b"(X\x06\x00\x00\x00module" + b"ctorch.nn.modules.linear\nLinear\n" + text("x.py") + text("source") + b"tQ"


@pytest.mark.parametrize(
    ("code", "is_read"),
    [
        (b"K\x05Q", False),
        (b"NQ", False),
        (b"Pstorage\n", False),
        (b")Q", False),
        (b"(" + text("storage") + b"NNNNNtQ", False),
        (b"(" + text("storage") + b"cos\nsystem\n" + text("0") + text("cpu") + b"K\x02NtQ", False),
        (
            b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("../../x") + text("cpu") + b"K\x02tQ",
            False,
        ),
        (MODULE, True),
    ],
)
@both_formats
def test_odd_persistent_ids_do_nothing(tmp_path, monkeypatch, code, is_read, legacy):
    monkeypatch.chdir(tmp_path)  # where torch writes a patch, when the source of a module has changed
    path = save_raw(tmp_path / "evil.pt", {**weights(), "a": argparse.Namespace(), "x": Raw(code)}, legacy)
    if is_read:
        assert_same(read_checkpoint(path).state_dicts[""].tensors, weights())
    else:
        with pytest.raises(CheckpointError, match="asks for what no checkpoint needs"):
            read_checkpoint(path)
    assert os.listdir(tmp_path) == ["evil.pt"]


def test_the_readers_of_archives_stay_out_of_reach(tmp_path, monkeypatch):
    """Should our own look at an archive miss what it is, torch.load still does not hand it on."""
    monkeypatch.setattr(reading, "_check_zip", lambda source, file: file.seek(0))
    monkeypatch.setattr(tarfile, "is_tarfile", lambda path: False)
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("TorchScript was loaded"))
    monkeypatch.setattr(tarfile.TarFile, "extract", lambda *_, **__: pytest.fail("a tar archive was unpacked"))
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps(argparse.Namespace(), 2))
        archive.writestr("m/constants.pkl", b"x")
    with tarfile.open(tmp_path / "tar.pt", "w", format=tarfile.USTAR_FORMAT, encoding="latin1") as archive:
        archive.addfile(tarfile.TarInfo(reading.LEGACY_MAGIC.decode("latin1")))
        archive.addfile(tarfile.TarInfo("storages"))
    for path in tmp_path.iterdir():
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(path)


@both_formats
def test_damage_at_any_byte_is_an_error_or_harmless(save, legacy):
    path = save({"model": {"w": torch.ones(2)}, "args": argparse.Namespace(a=[1, {2}])}, legacy=legacy)
    whole, chance, messages = path.read_bytes(), random.Random(0), []
    for _ in range(150):
        damaged = bytearray(whole)
        if chance.random() < 0.2:
            del damaged[chance.randrange(len(whole)) :]
        else:
            damaged[chance.randrange(min(len(whole), 700))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            assert isinstance(read_checkpoint(path), CheckpointFile)
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all("model.pt" in message for message in messages)


def test_names_from_a_file_are_shown_as_plain_text(save):
    path = save({"\x1b[31m<b>\n" + "x" * 500: 1, "args": argparse.Namespace()})
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    assert "'\\x1b[31m<b>\\nxx" in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 700


# ---- what is no checkpoint


def tar(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))


def members(*names):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"x")

    return write


def cut(part, save_file=torch.save):
    def write(path):
        save_file({"w": torch.ones(1000)}, path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])

    return write


def cut_legacy(path):
    torch.save(weights(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-9])


def content(data):
    return lambda path: path.write_bytes(data)


def saved(value):
    return lambda path: torch.save(value, path)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.pt", lambda path: None, "does not exist; check the path"),
        ("a.pt", content(b""), r"a.pt \(0 bytes\) is empty"),
        ("a.pt", content(b"hello, world" * 20), r"\(240 bytes\) is not a checkpoint"),
        (
            "a.pt",
            content(b"version https://git-lfs.github.com/spec/v1\noid"),
            "Git LFS pointer.*git lfs pull",
        ),
        ("a.pkl", content(pickle.dumps({"w": [1.0]})), "is a pickle, but not of torch.save"),
        ("a.pt", members("m/data.pkl", "m/constants.pkl"), r"TorchScript archive.*torch.jit.load\(path\)"),
        ("a.npz", members("x.npy", "y.npy"), "a zip archive, but no checkpoint: it holds 'x.npy', 'y.npy'"),
        ("a.pt", members("m/data.pkl"), "is damaged"),
        ("a.tar", tar, "is a tar archive.*save model.state_dict"),
        ("a.pt", cut(0.5), "is damaged or cut short: it has no zip directory"),
        ("a.pt", cut_legacy, "is damaged or cut short"),
        ("a.safetensors", cut(0.5, safetensors.torch.save_file), "is damaged or cut short"),
        ("a.safetensors", content((20).to_bytes(8, "little") + b'{"w": nonsense here}'), "is damaged"),
        ("a.safetensors", content(b"\xff" * 50), "is not a checkpoint"),
        ("a.pt", saved({"epoch": 3}), "holds no state dict, but a dict with 'epoch'"),
        ("a.pt", saved({}), "holds no state dict, but a dict with no named content"),
        ("a.pt", saved(torch.ones(2)), "holds no state dict, but a Tensor"),
        ("a.pt", saved({"a": argparse.Namespace(b=1)}), "objects that are not loaded .'argparse.Namespace'"),
        (
            "a.pt",
            saved(torch.optim.Adam([torch.ones(2)]).state_dict()),
            "no state dict.*'state', 'param_groups'",
        ),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_a_way_out(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(CheckpointError, match=message) as error:
        read_checkpoint(tmp_path / name)
    assert name in str(error.value)
    assert "Accepted are files written by torch.save (.pt .pth .th .ckpt .bin) or safetensors" in str(error.value)
    assert "weights_only" not in str(error.value)


# ---- state dicts and facts in a file


def trained():
    model = nn.Linear(2, 3)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    model(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    return model.state_dict(), optimiser.state_dict()


def test_state_dicts_are_found_at_any_place_but_not_in_optimisers(save):
    state, optimiser = trained()
    tensors = {"t": torch.ones(2)}
    file = read_checkpoint(
        save(
            {
                "best_prec1": torch.tensor(93.0),
                "state_dict": state,
                "ema": {"model": {"net": weights()}},
                "too": {"deep": {"for": {"the": {"search": weights()}}}},
                "optimizer": optimiser,
                "g_optimizer_state": tensors,
                "adam": optimiser,
                "lr_schedulers": [tensors],
                "amp": tensors,
                "rng_states": tensors,
                "amplitude": tensors,
            }
        )
    )
    assert list(file.state_dicts) == ["", "state_dict", "ema.model.net", "amplitude"]
    assert list(file.state_dicts[""].tensors) == ["best_prec1"]
    assert_same(file.state_dicts["state_dict"].tensors, state)


@pytest.mark.parametrize(
    ("content", "info"),
    [
        ({"epoch": 3, "global_step": 120, "loss": 0.5}, {"epoch": 3, "step": 120}),
        ({"iter_num": torch.tensor(7), "learning_rate": np.float32(0.5)}, {"step": 7, "lr": 0.5}),
        ({"meta": {"iter": 4, "epoch": np.int64(2)}, "lr": True}, {"step": 4, "epoch": 2}),
        ({"optimizer": trained()[1]}, {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}),
        (
            {"optimizer_states": [trained()[1]], "lr": 0.01},
            {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4},
        ),
        ({"lr": np.array(0.5, dtype=">f8")[()], "step": np.True_, "epoch": np.str_("x")}, {"lr": 0.5}),
        ({"args": argparse.Namespace(lr=0.1)}, {}),
    ],
)
def test_training_facts_are_plain_numbers_under_one_name(save, content, info):
    found = read_checkpoint(save({"model": weights(), **content})).info
    assert found == info
    assert {type(value) for value in found.values()} <= {int, float}


# ---- fitting


EXPECTED = shapes(weights())


def renamed(function, tensors=None):
    return {function(name): tensor for name, tensor in (tensors or weights()).items()}


def file_of(**state_dicts):
    found = {path: StateDict(tensors, path) for path, tensors in state_dicts.items()}
    return CheckpointFile(pathlib.Path("file.pt"), found, {}, ())


@pytest.mark.parametrize(
    ("rename", "prefix"),
    [
        (lambda name: name, ""),
        (lambda name: "module." + name, "module."),
        (lambda name: "_orig_mod." + name, "_orig_mod."),
        (lambda name: "model._orig_mod." + name, "model._orig_mod."),
        (lambda name: "lit.net." + name, "lit.net."),
        (lambda name: name.replace("fc.", "fc._orig_mod."), ""),
        (lambda name: name.replace("fc.", "module.fc.module.inner.").replace("inner.", ""), ""),
        (lambda name: "lit._orig_mod." + name.replace("fc.", "fc.module."), "lit."),
    ],
)
def test_prefixes_and_wrappers_are_taken_off(rename, prefix):
    fitted = fit_state_dict(StateDict(renamed(rename), "here"), EXPECTED)
    assert_same(fitted.tensors, weights())
    assert (fitted.prefix, fitted.key, fitted.unused) == (prefix, "here", ())


def test_a_compiled_model_keeps_its_own_names():
    expected = shapes(renamed(lambda name: "_orig_mod." + name))
    fitted = fit_state_dict(StateDict(weights(), ""), expected)
    assert_same(fitted.tensors, renamed(lambda name: "_orig_mod." + name))


def test_what_lies_outside_the_prefix_is_reported():
    tensors = {**renamed(lambda name: "model." + name), "metric.total": torch.ones(1), "t": torch.ones(1)}
    fitted = fit_state_dict(StateDict(tensors, ""), EXPECTED)
    assert_same(fitted.tensors, weights())
    assert fitted.unused == ("metric.total", "t")


def test_the_state_dict_that_fits_is_chosen_among_others():
    others = {
        "": {"best": torch.ones(())},
        "teacher": {"fc.weight": torch.ones(9, 2), "fc.bias": torch.ones(9)},
    }
    fitted = fit_state_dict(file_of(**others, student=weights()), EXPECTED)
    assert fitted.key == "student"
    assert_same(fitted.tensors, weights())


def test_one_of_several_is_chosen_by_path_or_by_path_and_prefix():
    ema = renamed(lambda name: "ema." + name, weights(1)) | renamed(lambda name: "net." + name, weights(2))
    file = file_of(model=weights(0), state=ema)
    with pytest.raises(CheckpointError, match=r"3 state dicts fit .*'model', 'state.ema', 'state.net'.*key='model'"):
        fit_state_dict(file, EXPECTED)
    with pytest.raises(CheckpointError, match=r"2 state dicts fit .*'state.ema', 'state.net'.*key='state.ema'"):
        fit_state_dict(file, EXPECTED, key="state")
    with pytest.raises(CheckpointError, match=r"file.pt has no state dict 'other'. Available: 'model', 'state'"):
        fit_state_dict(file, EXPECTED, key="other")
    assert_same(fit_state_dict(file, EXPECTED, key="model").tensors, weights(0))
    fitted = fit_state_dict(file, EXPECTED, key="state.net")
    assert_same(fitted.tensors, weights(2))
    assert (fitted.key, fitted.prefix, fitted.unused) == ("state", "net.", ("ema.fc.weight", "ema.fc.bias"))


def test_one_state_dict_at_two_paths_is_no_choice(save):
    state = weights()
    file = read_checkpoint(save({"model": state, "state_dict": dict(state)}))
    assert fit_state_dict(file, EXPECTED).key == "model"
    assert fit_state_dict(file, EXPECTED, key="state_dict").key == "state_dict"


TIES = {"head.weight": "embed.weight", "out.weight": "embed.weight"}


@pytest.mark.parametrize("present", [("embed.weight",), ("out.weight",), ("head.weight", "embed.weight")])
def test_a_tied_weight_may_be_stored_under_any_of_its_names(present):
    tied = torch.tensor([1.0, float("nan")])
    expected = {name: torch.Size([2]) for name in ("embed.weight", *TIES, "b")}
    tensors = {"b": torch.ones(2), **{name: tied.clone() for name in present}}
    fitted = fit_state_dict(StateDict(tensors, ""), expected, TIES)
    assert set(fitted.tensors) == {"embed.weight", "b"}
    torch.testing.assert_close(fitted.tensors["embed.weight"], tied, rtol=0, atol=0, equal_nan=True)


def test_tied_weights_that_the_file_holds_apart_are_refused():
    expected = {name: torch.Size([2]) for name in ("embed.weight", *TIES)}
    tensors = {"embed.weight": torch.ones(2), "head.weight": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"model ties 'embed.weight', 'head.weight', which the file holds apart"):
        fit_state_dict(StateDict(tensors, ""), expected, TIES)
    with pytest.raises(CheckpointError, match=r"missing are 'embed.weight'"):
        fit_state_dict(StateDict({"b": torch.ones(2)}, ""), expected, TIES)


def test_only_optional_entries_may_lack():
    expected = {**EXPECTED, "bn.num_batches_tracked": torch.Size([])}
    fitted = fit_state_dict(StateDict(weights(), ""), expected, optional=["bn.num_batches_tracked"])
    assert_same(fitted.tensors, weights())
    with pytest.raises(CheckpointError, match=r"missing are 'bn.num_batches_tracked'"):
        fit_state_dict(StateDict(weights(), ""), expected)


def test_a_misfit_names_the_closest_state_dict_and_the_first_differences():
    expected = {**EXPECTED, **{f"blocks.{i}.w": torch.Size([1]) for i in range(5)}}
    tensors = {**weights(), "old.a": torch.ones(1), "fc.bias": torch.ones(4)}
    file = file_of(**{"": {"best": torch.ones(())}, "model": tensors})
    with pytest.raises(CheckpointError) as error:
        fit_state_dict(file, expected)
    assert str(error.value) == (
        "file.pt does not fit the model. Closest is 'model': missing are 'blocks.0.w', 'blocks.1.w', "
        "'blocks.2.w' and 2 more; the model does not have 'old.a'; shapes that differ: 1, first "
        "'fc.bias', [4] in the "
        "file and [3] in the model. Build the model as it was for training, or rename or delete "
        "entries and save the file anew. "
        "Other state dicts in it: '(top level)'."
    )


def test_a_file_of_another_architecture_is_called_so():
    with pytest.raises(CheckpointError, match="No name agrees: the file is of another architecture"):
        fit_state_dict(StateDict({"other.w": torch.ones(1)}, ""), EXPECTED)


def test_no_entry_is_dropped_silently():
    with pytest.raises(CheckpointError, match="In its top level the model does not have 'total_ops'"):
        fit_state_dict(StateDict({**weights(), "total_ops": torch.ones(1)}, ""), EXPECTED)


@pytest.mark.parametrize("kind", ["pt", "legacy", "module", "safetensors", "parallel"])
def test_a_model_comes_back_from_each_kind_of_file(save, tmp_path, model, kind):
    path = tmp_path / "a.safetensors"
    if kind == "safetensors":
        safetensors.torch.save_model(model, path)
    else:
        content = {"pt": model.state_dict(), "legacy": model.state_dict(), "module": model}
        content["parallel"] = {"net": nn.DataParallel(model).state_dict()}
        path = save(content[kind], legacy=kind == "legacy")
    fitted = fit_state_dict(read_checkpoint(path), shapes(model.state_dict()), {"head.weight": "embed.weight"})
    state = model.state_dict()
    assert set(fitted.tensors) == set(state) - {"head.weight"}
    assert all(torch.equal(tensor, state[name]) for name, tensor in fitted.tensors.items())
