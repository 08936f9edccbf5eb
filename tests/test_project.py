"""The contract of my_project.py, and how checkpoints of a project are found and refused."""

import sys

import pytest
import torch
from models import mlp, mlp_problem
from safetensors.torch import save_file

from analysis import Checkpoint, CheckpointError, Project, ProjectError, load_checkpoint, load_project

PROJECT = """
import torch
from torch import nn
from analysis import Problem

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
x = torch.randn(32, 4)
problem = Problem(model, "mse", (x, x[:, :2] ** 2), name="mine")
"""


def write(folder, text=PROJECT, name="my_project.py"):
    path = folder / name
    path.write_text(text)
    return path


def test_a_project_of_one_problem(tmp_path):
    project = load_project(write(tmp_path))
    assert project.name == "my_project"
    assert list(project.problems) == ["mine"]
    assert project.checkpoint_names("mine") == ("model as given",)
    point = project.checkpoint("mine", "model as given")
    assert point.weights.digest() == project.problems["mine"].checkpoint().weights.digest()


def test_checkpoints_in_a_folder_stand_in_numeric_order(tmp_path):
    (tmp_path / "runs").mkdir()
    states = {}
    for step in (1, 10, 9, 100):
        states[step] = {"0.weight": torch.full((8, 4), float(step)), "0.bias": torch.zeros(8)}
        states[step] |= {"2.weight": torch.ones(2, 8), "2.bias": torch.zeros(2)}
        torch.save({"state_dict": states[step], "step": step}, tmp_path / "runs" / f"step-{step}.pt")
    (tmp_path / "runs" / "log.txt").write_text("no checkpoint")
    for entry in ('"runs"', '["runs/*.pt"]', '"runs/step-*.pt"'):
        project = load_project(write(tmp_path, f"{PROJECT}\ncheckpoints = {entry}"))
        assert project.checkpoint_names("mine") == ("step-1", "step-9", "step-10", "step-100")
    point = project.checkpoint("mine", "step-10")
    assert torch.equal(point.weights["0.weight"], states[10]["0.weight"])
    assert (point.name, point.info["step"]) == ("step-10", 10)


def test_named_checkpoints_of_every_kind(tmp_path):
    state = mlp(seed=3).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"model": state, "ema": {k: v * 2 for k, v in state.items()}}, tmp_path / "b.ckpt")
    problem = mlp_problem(name="p")
    project = Project(
        problem,
        {
            "file": tmp_path / "a.safetensors",
            "keyed": (tmp_path / "b.ckpt", "ema"),
            "state": state,
            "module": mlp(seed=3),
            "made": Checkpoint.of(mlp(seed=3), "elsewhere"),
        },
    )
    for name in project.checkpoint_names("p"):
        point = project.checkpoint("p", name)
        factor = 2 if name == "keyed" else 1
        assert torch.equal(point.weights["0.weight"], state["0.weight"] * factor)
        assert point.name == name
    with pytest.raises(CheckpointError, match="ema"):
        project.problems["p"].checkpoint(tmp_path / "b.ckpt")


def test_several_problems_have_their_own_checkpoints():
    wide = mlp_problem(name="x")
    project = Project(
        {"a": mlp_problem(), "b": wide},
        {"a": {"one": mlp(seed=1)}, "b": {"two": mlp(seed=2), "three": mlp(seed=3)}},
    )
    assert project.checkpoint_names("a") == ("one",)
    assert project.checkpoint_names("b") == ("two", "three")
    shared = Project({"a": mlp_problem(), "b": wide}, {"one": mlp(seed=1)})
    assert shared.checkpoint_names("b") == ("one",)


def test_a_project_may_import_its_neighbours_and_leaves_the_path_alone(tmp_path):
    write(tmp_path, "WIDTH = 8", "neighbour_of_project.py")
    before = list(sys.path)
    load_project(write(tmp_path, f"from neighbour_of_project import WIDTH\n{PROJECT}"))
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import no_such_module_here", r"line 1: ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("x = 1\n\nx = x / 0", r"'my_project.py', line 3: ZeroDivisionError"),
        ("def broken(:", r"line 1: SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("x = 1", "defines neither `problem`"),
        ("problem = 'mnist'", "problems is a str"),
        ("problems = {'a': 1}", r"problems\['a'\] is a int"),
        (PROJECT + "checkpoints = 'runs/*.pt'", "names no file"),
        (PROJECT + "checkpoints = 3", "checkpoints is a int"),
        (PROJECT + "checkpoints = {'a': 3}", r"checkpoints\['a'\] is a int"),
    ],
)
def test_a_project_that_does_not_work_says_where_and_what(tmp_path, text, words):
    with pytest.raises(ProjectError, match=words) as caught:
        load_project(write(tmp_path, text))
    if "Error" in words and "Syntax" not in words:
        assert "Traceback" in caught.value.details


def test_a_project_that_is_no_file(tmp_path):
    with pytest.raises(ProjectError, match="There is no project file"):
        load_project(tmp_path / "none.py")
    with pytest.raises(ProjectError, match="not a Python file"):
        load_project(write(tmp_path, name="project.txt"))


def test_unknown_names_list_what_there_is():
    project = Project(mlp_problem(name="p"), {"one": mlp()})
    with pytest.raises(CheckpointError, match=r"there are \['one'\]"):
        project.checkpoint("p", "two")
    with pytest.raises(ProjectError, match=r"there are \['p'\]"):
        project.checkpoint("q", "one")


# --- checkpoints that fit, or do not ----------------------------------------------------------------------


def test_a_checkpoint_is_read_in_the_models_dtype(tmp_path):
    state = {k: v.half() for k, v in mlp(seed=4).state_dict().items()}
    torch.save(state, tmp_path / "half.pt")
    point = load_checkpoint(tmp_path / "half.pt", mlp())
    assert point.weights["0.weight"].dtype == torch.float32
    assert torch.equal(point.weights["0.weight"], state["0.weight"].float())
    assert point.source.endswith("half.pt")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path, bad):
    state = mlp().state_dict()
    state["2.bias"] = state["2.bias"].clone()
    state["2.bias"][1:3] = bad
    torch.save(state, tmp_path / "diverged.pt")
    with pytest.raises(CheckpointError, match=r"'2\.bias' holds 2 NaN or infinite values of 16"):
        load_checkpoint(tmp_path / "diverged.pt", mlp())


def test_a_checkpoint_of_another_shape_or_kind(tmp_path):
    torch.save(mlp((6, 8, 16, 3)).state_dict(), tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"0\.weight"):
        load_checkpoint(tmp_path / "other.pt", mlp())
    integer = {k: v.long() for k, v in mlp().state_dict().items()}
    with pytest.raises(CheckpointError, match="is torch.int64 in the checkpoint"):
        load_checkpoint(integer, mlp())


def test_problems_may_be_made_when_they_are_looked_at():
    made = []

    def make():
        made.append(1)
        return mlp_problem(name="late")

    project = Project({"late": make, "now": mlp_problem()})
    assert list(project.problems) == ["late", "now"]
    assert project.checkpoint_names("late") == ("model as given",)
    assert not made
    assert project.problems["late"].name == "late"
    assert project.problems["late"] is project.problems["late"]
    assert made == [1]
    with pytest.raises(ProjectError, match=r"problems\['bad'\] is a int"):
        Project({"bad": lambda: 3}).problems["bad"]


def test_the_shipped_samples_are_a_project():
    from sample_checkpoints import manifest, path

    project = load_project(path("mlp128-s0").parent / "samples.py")
    samples = manifest()["samples"]
    for name in ("MLP 2×128 · test", "MLP 2×64, tanh · train"):
        for checkpoint in project.checkpoint_names(name):
            found = project.problems[name].measure(project.checkpoint(name, checkpoint))
            split = name.rpartition(" ")[2]
            assert found["loss"][0] == pytest.approx(samples[checkpoint][f"{split}_loss"], rel=1e-3, abs=1e-5)
            assert found["accuracy"][0] == pytest.approx(samples[checkpoint][f"{split}_accuracy"], abs=1e-5)
    steps = project.checkpoint_names("MLP 64, a training run · train")
    assert steps == tuple(sorted(steps))
    assert len(steps) > 20


def test_a_misspelt_checkpoints_is_not_passed_over(tmp_path):
    with pytest.raises(ProjectError, match="did you mean `checkpoints`"):
        load_project(write(tmp_path, PROJECT + "checkpoint = 'runs/*.pt'"))


def test_an_error_in_the_first_batch_says_so(tmp_path):
    text = PROJECT.replace("nn.Linear(4, 8)", "nn.Linear(5, 8)")
    with pytest.raises(ProjectError, match=r"first batch \(float32 \[32, 4\], float32 \[32, 2\]\) was tried"):
        load_project(write(tmp_path, text))


def test_a_problem_beside_problems_is_not_passed_over(tmp_path):
    file = tmp_path / "both.py"
    made = (
        "import torch\nfrom analysis import Problem\n"
        "make = lambda: Problem(torch.nn.Linear(2, 1), 'mse', (torch.ones(3, 2), torch.ones(3, 1)))\n"
    )
    file.write_text(made + "problem = make()\nproblems = {'a': make()}\n")
    with pytest.raises(ProjectError, match="keep one of them"):
        load_project(file)
    file.write_text(made + "problems = {}\nfor name in 'ab':\n    problem = problems[name] = make()\n")
    assert list(load_project(file).problems) == ["a", "b"]
