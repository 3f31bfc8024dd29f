"""Token-level kernels. Import them as `jaxevo.kernels`."""

if __name__ != "jaxevo.kernels":
    raise ImportError(
        f"this package was imported as {__name__!r}; import it as `jaxevo.kernels` "
        "(is the repository root on sys.path before the installed package?)."
    )

from jaxevo.kernels._dispatch import is_one_tpu
from jaxevo.kernels._streaming import block_bytes, keeps_logits
from jaxevo.kernels.entropy_band import Band, band_hinge, entropy_band
from jaxevo.kernels.fused_logprob import (
    LogitStatistics,
    LogProbs,
    fused_logprob,
    fused_logprob_sum,
    logit_statistics,
)
from jaxevo.kernels.token_kl import Blend, token_kl, token_kl_sum

__all__ = [
    "Band", "Blend", "LogProbs", "LogitStatistics", "band_hinge", "block_bytes", "entropy_band",
    "fused_logprob", "fused_logprob_sum", "is_one_tpu", "keeps_logits", "logit_statistics",
    "token_kl", "token_kl_sum",
]  # fmt: skip
