import json
import subprocess
import sys

import pytest

from jaxevo.tasks import load_task
from jaxevo.tasks.arithmetic import SPECS


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "my data.jsonl"
    lines = [{"the question": f"{i}+0?", "target": i} for i in range(40)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.mark.parametrize("name", sorted(SPECS))
def test_arithmetic_by_name(name):
    assert load_task(name, seed=3).train(7) == load_task(name, seed=3).train(7)
    assert load_task(name).name == name


def test_file_with_options(path):
    query = "prompt=the+question&answer=target&system=Be%20brief.&held_out=0.5"
    source = load_task(f"{path}?{query}&verifier=last_integer", seed=5)
    task = source.train(0)
    assert [m.role for m in task.messages] == ["system", "user"]
    assert task.messages[0].content == "Be brief."
    assert task.messages[1].content == f"{task.answer}+0?"
    assert list(source.verifiers) == ["last_integer"]
    assert 8 <= source.held_out_size <= 32  # 20 expected, standard deviation 3.2


def test_a_template_and_a_file_of_held_out_problems(path, tmp_path):
    (tmp_path / "other.jsonl").write_text(json.dumps({"the question": "9+9?", "target": 18}))
    query = "prompt_template=Solve+{the question}%0A{target}{{}}&answer=target&limit=7"
    source = load_task(f"{path}?{query}&held_out_file={tmp_path}/other.jsonl")
    task = source.train(0)
    assert task.messages[0].content == f"Solve {task.answer}+0?\n{task.answer}{{}}"
    assert task.info == {"the question": f"{task.answer}+0?"}
    assert {source.train(i).uid for i in range(70)} == {f"my data/{n}" for n in range(1, 8)}
    assert source.held_out_size == 1
    assert source.held_out(0).uid == "my data/held-out/1"
    assert source.held_out(0).answer == "18"


def test_weights_add_verifiers(path):
    query = "prompt=the+question&answer=target&weight.strict_integer=0.25"
    source = load_task(f"{path}?{query}")
    assert list(source.verifiers) == ["exact_match", "strict_integer"]
    assert source.weights == {"strict_integer": 0.25}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("ad1", r"no task 'ad1'. Choose from add1, .*Did you mean 'add1'\? Or give the path"),
        ("add2_shots", "Did you mean 'add2-shots'"),
        ("data.json", r"task 'data.json': a .json file is not read. Write it as .jsonl"),
        ("x.jsonl?promt=a", "no option 'promt'.*Did you mean 'prompt'"),
        ("x.jsonl?prompt", "written name=value"),
        ("x.jsonl?prompt=a&prompt=b", "option 'prompt' is given twice"),
        ("x.jsonl?held_out=half", "held_out='half' is not a number"),
        ("x.jsonl?verifier=exact", "no verifier 'exact'.*Did you mean 'exact_match'"),
        ("x.jsonl", "x.jsonl: cannot be read"),
    ],
)
def test_faults_are_named(name, fault):
    with pytest.raises(ValueError, match=fault):
        load_task(name)


def test_imports_stay_light():
    code = (
        "import sys, jaxevo.tasks, jaxevo.rewards, jaxevo.teachers, jaxevo.run.statistics\n"
        "heavy = {'transformers', 'torch', 'tensorflow', 'orbax'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
