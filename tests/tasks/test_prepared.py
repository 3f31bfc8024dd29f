"""A prepared set of tensorflow-datasets is read, without tensorflow."""

import re
import subprocess
import sys

import pytest

from jaxevo.tasks import load_task

for module in ("tensorflow_datasets", "array_record"):
    pytest.importorskip(module, reason=f"needs the extra `tfds`: {module}")

BUILDER = """
import sys
import numpy as np
import tensorflow_datasets as tfds


class Sums(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        texts = {"options": tfds.features.Sequence(tfds.features.Text())}
        own = {"prompt": tfds.features.Text(), "answer": tfds.features.Scalar(dtype=np.int64)}
        features = tfds.features.FeaturesDict({**own, **texts})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, manager):
        return {"train": self._generate_examples(0, 30), "test": self._generate_examples(30, 40)}

    def _generate_examples(self, start, stop):
        for i in range(start, stop):
            yield i, {"prompt": f"{i}+0? é", "answer": i, "options": ["a", "b"]}


if __name__ == "__main__":
    Sums(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    (folder / "sums.py").write_text(BUILDER)
    command = [sys.executable, str(folder / "sums.py"), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def everything(source):
    train = [source.train(i) for i in range(len(source.train.items))]
    return train, [source.held_out(i) for i in range(source.held_out_size)]


def test_splits_are_read(place):
    train, held_out = everything(load_task(f"tfds:sums?data_dir={place}&held_out_split=test"))
    assert sorted(int(t.answer) for t in train) == list(range(30))
    assert sorted(int(t.answer) for t in held_out) == list(range(30, 40))
    assert train[0].messages[0].content == f"{train[0].answer}+0? é"
    assert train[0].info == {"options": ["a", "b"]}
    assert "tensorflow" not in sys.modules


def test_a_part_of_a_split_and_a_template(place):
    query = (
        f"data_dir={place}&split=train[:50%25]&held_out=0&prompt_template={{options}}%0A{{answer}}"
    )
    train, _ = everything(load_task(f"tfds:sums?{query}"))
    assert len(train) == 15
    assert train[0].messages[0].content == f"a\nb\n{train[0].answer}"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("tfds:sumz?data_dir={place}", "tfds:sumz cannot be had: Dataset sumz not found"),
        ("tfds:sums?data_dir={place}&split=val", "no split 'val'. Choose from train, test"),
        ("tfds:sums?data_dir={place}&split=train[:5", "split train.:5: Error parsing split"),
        ("tfds:sums?data_dir={place}&prompt=p", "row 1: there is no column 'p'. Choose from"),
        ("tfds:mnist?data_dir={place}", "tfds:mnist is not prepared in .*download_and_prepare"),
    ],
)
def test_faults_get_one_line_and_status_2(place, refused, name, fault):
    assert re.search(fault, refused("tasks", name.format(place=place)))
