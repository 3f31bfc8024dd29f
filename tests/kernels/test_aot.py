"""The ops, forward and backward, compiled for TPUs at real shapes: 8192 slots, a vocabulary of
151936 tokens, bfloat16."""

from __future__ import annotations

import functools

import pytest

from jaxevo.kernels.aot import TOPOLOGIES, Case, compile_ahead

pytest.importorskip("libtpu")

M, V, WIDTHS = 8192, 151936, (1024, 2048, 4096)
SHARE = 0.05  # of the plain version's temporaries


@functools.cache
def plain(op: str, width: int, kind: str) -> int:
    """Temporary bytes of the version that makes all logits, on v5p."""
    return compile_ahead([Case(op, "reference", M, width, V, kind=kind)])[0].temporary_bytes


def check_temporaries(chip, cases):
    cases = [case._replace(chip=chip) for case in cases]
    for case, found in zip(cases, compile_ahead(cases), strict=True):
        assert found.temporary_bytes <= SHARE * plain(case.op, case.width, case.kind), case
        gradients = (M + V) * case.width * 2
        assert gradients <= found.output_bytes <= 1.01 * gradients, case


@pytest.mark.soak
@pytest.mark.parametrize("chip", TOPOLOGIES)
def test_the_widest_head_compiles_without_the_logits(chip):
    cases = [Case(op, "pallas_tpu", M, 4096, V) for op in ("fused_logprob", "token_kl")]
    check_temporaries(chip, cases)


@pytest.mark.slow
def test_a_band_compiles_and_needs_little_more_than_its_rows():
    cases = [Case("entropy_band", "pallas_tpu", 64, 1024, chip=chip) for chip in TOPOLOGIES]
    for found in compile_ahead(cases):
        assert found.temporary_bytes <= 4 * 64 * 1024 * 8


@pytest.mark.soak
@pytest.mark.parametrize("chip", TOPOLOGIES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("implementation", ["pallas_tpu", "chunked"])
def test_every_op_and_width(chip, width, implementation):
    kinds = ("reverse", "forward", "js")
    cases = [Case("token_kl", implementation, M, width, V, kind=kind) for kind in kinds]
    check_temporaries(chip, [Case("fused_logprob", implementation, M, width, V), *cases])


def test_a_case_that_does_not_exist_is_named():
    with pytest.raises(RuntimeError, match="op='softmax', but it is fused_logprob"):
        compile_ahead([Case("softmax", "chunked", 8, 8)])
