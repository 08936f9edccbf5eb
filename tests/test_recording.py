"""Checkpoints written while a network is trained, by hand or by Lightning, and read as a run."""

import pickle
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from models import classification, mlp
from torch import nn

from analysis import CheckpointError, Problem, Project, along_training, load_checkpoint, recording
from analysis.recording import Recorder


def trained(recorder, steps=25):
    """A run whose learning rate falls by a tenth at step 10, and the weights before each step."""
    model, (x, y) = mlp(), classification()
    optimiser = torch.optim.SGD(model.parameters(), 0.5, momentum=0.25)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 10, 0.1)
    before = []
    for step in range(steps):
        before.append({name: value.clone() for name, value in model.state_dict().items()})
        recorder(step, model, optimiser)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
        schedule.step()
    recorder.save(steps, model, optimiser)
    return model, before


def test_a_run_is_recorded_with_its_steps_and_learning_rates_in_their_order(tmp_path):
    model, before = trained(Recorder(tmp_path / "runs" / "a", every=5))
    problem = Problem(mlp(), "cross_entropy", classification(), name="small")
    project = Project(problem, tmp_path / "runs" / "a")
    names = project.checkpoint_names("small")
    assert names == tuple(f"step-{step}" for step in (0, 5, 10, 15, 20, 25))
    for name in names[:-1]:
        found, wanted = project.checkpoint("small", name).weights, before[int(name.removeprefix("step-"))]
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    final = project.checkpoint("small", "step-25")
    assert all(torch.equal(final.weights[key], value) for key, value in model.state_dict().items())
    assert float(final.info["momentum"]) == 0.25
    *_, ds = along_training(problem, [project.checkpoint("small", name) for name in names], largest=1)
    np.testing.assert_allclose(ds["step"], [0, 5, 10, 15, 20, 25])
    np.testing.assert_allclose(ds["edge"], 2 / np.array([0.5, 0.5, 0.05, 0.05, 0.005, 0.005]))
    assert {file.suffix for file in (tmp_path / "runs" / "a").iterdir()} == {".safetensors"}


def test_a_run_that_diverged_is_written_and_refused_when_read(tmp_path):
    model = mlp()
    with torch.no_grad():
        model[0].bias[0] = torch.nan
    path = Recorder(tmp_path).save(7, model)
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        load_checkpoint(path, mlp())


def test_a_recorder_says_what_it_needs(tmp_path):
    with pytest.raises(CheckpointError, match="every is 0"):
        Recorder(tmp_path, every=0)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="Cannot make the folder"):
        Recorder(tmp_path / "file" / "run")


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def fake(request, monkeypatch):
    """One of the two Lightnings as far as a callback sees it, and not the other."""
    for name in ("lightning", *recording.LIGHTNING):
        monkeypatch.setitem(sys.modules, name, None)
    module = ModuleType(request.param)
    module.Callback = type("Callback", (), {})
    monkeypatch.setitem(sys.modules, request.param, module)
    if request.param.startswith("lightning."):
        monkeypatch.setitem(sys.modules, "lightning", ModuleType("lightning"))
    recording._lightning_recorder.cache_clear()
    yield module
    recording._lightning_recorder.cache_clear()


def test_the_callback_follows_a_trainer(fake, tmp_path):
    model = mlp()
    callback = recording.LightningRecorder(tmp_path, every=4)
    assert isinstance(callback, fake.Callback)
    assert pickle.loads(pickle.dumps(callback)).recorder.every == 4
    trainer = SimpleNamespace(global_step=0, is_global_zero=True, optimizers=[torch.optim.SGD(model.parameters(), 0.1)])
    callback.on_train_start(trainer, model)
    for batch in range(18):  # two batches a step
        trainer.global_step = (batch + 1) // 2
        callback.on_train_batch_end(trainer, model, None, None, batch)
    callback.on_train_end(trainer, model)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"step-{n}.safetensors" for n in (0, 4, 8, 9)]
    trainer.is_global_zero, trainer.global_step = False, 12
    callback.on_train_batch_end(trainer, model, None, None, 0)
    assert len(list(tmp_path.iterdir())) == 4


def test_without_lightning_the_callback_says_so(monkeypatch):
    for name in ("lightning", *recording.LIGHTNING):
        monkeypatch.setitem(sys.modules, name, None)
    recording._lightning_recorder.cache_clear()
    with pytest.raises(ImportError, match="pip install lightning"):
        recording.LightningRecorder  # noqa: B018


def test_a_real_trainer_records(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
    recording._lightning_recorder.cache_clear()

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = mlp()

        def training_step(self, batch, _):
            x, y = batch
            return nn.functional.cross_entropy(self.model(x), y)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.25)

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*classification()), batch_size=16)
    module, callback = Module(), recording.LightningRecorder(tmp_path / "run", every=3)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    lightning.Trainer(max_steps=8, callbacks=[callback], default_root_dir=tmp_path, **options).fit(module, loader)
    problem = Problem(mlp(), "cross_entropy", classification(), name="small")
    project = Project(problem, tmp_path / "run")
    assert project.checkpoint_names("small") == ("step-0", "step-3", "step-6", "step-8")
    final = project.checkpoint("small", "step-8")
    assert all(torch.equal(final.weights[key], value) for key, value in module.model.state_dict().items())
    assert float(final.info["lr"]) == 0.25
    assert all(torch.equal(project.checkpoint("small", "step-0").weights[k], v) for k, v in mlp().state_dict().items())
