"""Whatever a family's layers do, the sampler's log-probs are the trainer's, turn after turn."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxevo.collect.readings import answer_logp
from jaxevo.models import decoder
from jaxevo.models.table import LinearScaling, YarnScaling
from jaxevo.recipes.grpo import grpo
from jaxevo.run.build import build_run, make_sampler
from jaxevo.run.options import RunOptions
from jaxevo.sampling.sampler import Sampling, publish
from jaxevo.types import bind

OPTIONS = RunOptions(
    model="tiny", task="add3", prompts=2, samples=3, max_new_tokens=40, prompt_tokens=60
)
TRAITS = {
    "windows": {"windowed": (True, False), "window": 4},
    "windows everywhere, caps": {
        "windowed": (True, True),
        "window": 6,
        "score_cap": 1.5,
        "logit_cap": 2.0,
        "query_scalar": 5.0,
    },
    "rotary positions by layer, norms on both sides": {
        "windowed": (False, True),
        "window": 5,
        "window_theta": 50.0,
        "rope_scaling": LinearScaling(4.0),
        "norms": "both",
        "norm_plus_one": True,
        "qk_norm": "head",
        "activation": "gelu_tanh",
        "embed_scale": True,
    },
    "norms behind, yarn": {
        "norms": "after",
        "qk_norm": "width",
        "rope_scaling": YarnScaling(4.0, 8, attention_factor=1.1),
    },
    "experts": {"experts": 4, "experts_per_token": 2, "norm_topk": True},
}


@pytest.fixture(scope="module", params=TRAITS)
def run(tiny_model, request, quick_to_compile):
    config = dataclasses.replace(tiny_model.config, **TRAITS[request.param])
    params = decoder.init_params(jax.random.key(7), config)
    params["head"] = params["head"] * 20.0  # answers that differ
    model = dataclasses.replace(tiny_model, config=config, params=params)
    return build_run(grpo(), OPTIONS, model=model)


@pytest.mark.slow
def test_sampled_log_probs_are_read_again_in_training(run):
    (objective,) = run.recipe.objectives
    lab = run.bench.lab(run.state.params, learner=run.learner)
    asked = lab.sample(lab.tasks(), new_tokens=6, keep=True)
    rows = lab.extend(asked, [("tool", [3, 12, 4])] * len(asked), new_tokens=5, keep=True)
    assert len({row.answer_ids.tobytes() for row in rows}) > len(rows) // 2
    sampled = [sum(s.logp.sum() for s in row.answer if s.logp is not None) for row in rows]
    read = lab.map(bind(answer_logp), rows, like=objective)
    np.testing.assert_allclose(read, sampled, atol=2e-4)  # float32 sums of eleven log-probs


@pytest.mark.slow
def test_a_turn_behind_a_kept_beginning_is_that_of_a_whole_prompt(run):
    model, generator = run.bench.model, np.random.default_rng(0)
    sampler, weights = make_sampler(model, 256), publish(run.state.params["policy"])
    kept = sampler.conversations()

    def ask(prompts, uid, kept):
        out = sampler(
            weights, prompts, key=jax.random.key(5), uids=range(uid, uid + 2), samples=1,
            new_tokens=6, sampling=Sampling(), kept=kept, keep=kept is not None,
        )  # fmt: skip
        return out, [out.ids_NR[n, : out.length_N[n]] for n in range(2)]

    prompts = [generator.integers(2, 20, length).astype(np.int32) for length in (90, 101)]
    for uid in (0, 10):
        found, answers = ask(prompts, uid, kept)
        wanted, _ = ask(prompts, uid, None)
        np.testing.assert_array_equal(found.ids_NR, wanted.ids_NR)
        np.testing.assert_allclose(found.logp_NR, wanted.logp_NR, atol=1e-4)  # float32
        given = np.array([3, 12, 4], np.int32)
        prompts = [np.concatenate((p, a, given)) for p, a in zip(prompts, answers, strict=True)]
    assert kept.shared_tokens > 180
