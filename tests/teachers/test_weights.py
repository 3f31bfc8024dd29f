import pytest

from jaxevo.teachers import copy, ema, every, reprompt, teacher
from jaxevo.types import ParamSet, View, bind

CONTEXT = bind(reprompt)


def test_which_sets_a_teacher_needs():
    def view(params, blend=None):
        return View("teacher", params, CONTEXT, ("hidden",), blend)

    assert teacher("live", context=CONTEXT) == (view("policy"), ())
    assert teacher("frozen", context=CONTEXT) == (view("reference"), (ParamSet("reference"),))
    average = ParamSet("teacher", follows="policy", rule=bind(ema, rate=0.2))
    assert teacher("ema", context=CONTEXT, rate=0.2) == (view("teacher"), (average,))
    now_and_then = ParamSet(
        "teacher", follows="policy", rule=bind(copy), when=bind(every, rounds=3)
    )
    found = teacher("synced", context=CONTEXT, sync_rounds=3)
    assert found == (view("teacher"), (now_and_then,))
    mixed = teacher("trust_region", context=CONTEXT, rate=0.1)
    assert mixed == (view("reference", ("policy", 0.1)), (ParamSet("reference"),))
    assert mixed.view.sets == ("reference", "policy")


@pytest.mark.parametrize(
    ("weights", "options", "said"),
    [
        ("best", {}, "choose one of ema, frozen, live, synced, trust_region"),
        ("ema", {"rate": 1.5}, r"a rate in \[0, 1\], got 1.5"),
        ("synced", {"sync_rounds": 0}, "sync_rounds of at least 1, got 0"),
        ("trust_region", {"rate": 1.0}, r"a share of 1.0, but it must lie in \(0, 1\)"),
        ("trust_region", {"read": ("hidden", "entropy")}, "entropy of its own would be needed"),
    ],
)
def test_a_wrong_teacher_is_refused_when_it_is_built(weights, options, said):
    with pytest.raises(ValueError, match=said):
        teacher(weights, context=CONTEXT, **options)


def test_a_blended_view_is_read_in_a_divergence_alone():
    with pytest.raises(ValueError, match="blends two sets and reads logp"):
        View("teacher", "reference", CONTEXT, ("logp",), ("policy", 0.1))
