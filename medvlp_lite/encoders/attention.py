"""Attention as every encoder and decoder here computes it: fused where that is faster, else written out.

Built in chapter 05_masked_contrastive.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """softmax(q k^T / sqrt(d)) v for q (..., n, d), k and v (..., m, d): (..., n, d).

    Keys where ``mask`` (broadcast to (..., n, m)) is False are not seen. PyTorch's fused form is used on a GPU, and where no
    gradient is wanted: on a CPU, with small heads in bfloat16, its backward pass is ten times slower than these three operations.
    """
    if q.is_cuda or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -1e4)
    return scores.softmax(dim=-1).to(v.dtype) @ v
