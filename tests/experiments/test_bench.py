"""What benches hand to both sides: prompts of exact lengths, answers of forced ones."""

import json

import pytest

from jaxevo.models import hub
from jaxevo.types import Message


@pytest.fixture(scope="module")
def bench(experiments_on_path):
    from experiments.bench import sampler_worker, worker

    return worker, sampler_worker


def test_forced_lengths_are_spread_and_mixed(bench):
    lengths = bench[1].lengths_of(64, 8, 128)
    assert (len(lengths), min(lengths), max(lengths), sum(lengths)) == (64, 8, 128, 64 * 68)
    assert lengths != sorted(lengths)
    assert bench[1].lengths_of(4, 64, 64) == [64] * 4


@pytest.mark.smollm2
@pytest.mark.slow
def test_long_problems_have_the_tokens_asked_for(bench):
    tokenizer = hub.load("smollm2-135m").tokenizer
    lines = [json.loads(line) for line in bench[0].long_problems(tokenizer, 6, 256).splitlines()]
    assert len(lines) == 6
    for line in lines:
        assert len(tokenizer.render((Message("user", line["prompt"]),))) == 256
        a, b = line["prompt"].rpartition("What is ")[2].partition("?")[0].split("+")
        assert int(line["answer"]) == int(a) + int(b)
    assert len({line["prompt"] for line in lines}) == 6
    with pytest.raises(ValueError, match="24 tokens are too few"):
        bench[0].long_problems(tokenizer, 1, 24)
    prompts = bench[1].prompts_of(tokenizer, 3, 100)
    assert [len(ids) for ids in prompts] == [100, 100, 100]
