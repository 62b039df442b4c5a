"""The small mixture-of-experts language model whose router decisions are recorded.

Needs torch; imported only by functions that record. The block is the usual one: causal attention,
then a softmax-then-top-k router over SwiGLU experts, without capacity limit and without dropped tokens.
"""
# mypy: allow-subclassing-any, allow-untyped-calls, no-warn-return-any, no-warn-redundant-casts

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from moesim.routing.recorder.architecture import Architecture

Decisions = tuple[Tensor, Tensor]
"""Chosen expert ids and gate weights of one layer, each [tokens, top_k]."""


class _Permute(torch.autograd.Function):
    """Reorder rows; the gradient is the inverse reordering, which needs no slow scatter-add."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows[order]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (inverse,) = ctx.saved_tensors
        return gradients[0][inverse], None, None


class MoELayer(nn.Module):
    """Router and experts of one layer."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.top_k, self.experts = shape.top_k, shape.experts
        self.router = nn.Linear(shape.width, shape.experts, bias=False)
        self.up = nn.Parameter(torch.randn(shape.experts, shape.width, 2 * shape.intermediate))
        self.down = nn.Parameter(torch.randn(shape.experts, shape.intermediate, shape.width))
        with torch.no_grad():
            self.up.mul_(shape.width**-0.5)
            self.down.mul_((2 * shape.layers * shape.intermediate) ** -0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Decisions]:
        """Map [tokens, width] to its output, the balance loss and the router decisions."""
        probability = torch.softmax(self.router(x), dim=-1)
        weight, chosen = probability.topk(self.top_k, dim=-1)
        weight = weight / weight.sum(dim=-1, keepdim=True)
        flat = chosen.flatten()
        order = torch.argsort(flat, stable=True)
        inverse = torch.argsort(order, stable=True)
        counts = torch.bincount(flat, minlength=self.experts)
        copies = x.unsqueeze(1).expand(-1, self.top_k, -1).reshape(-1, x.shape[1])
        rows = cast(Tensor, _Permute.apply(copies, order, inverse))
        groups = zip(rows.split(counts.tolist()), self.up.unbind(0), self.down.unbind(0), strict=True)
        done = torch.cat([_expert(group, up, down) for group, up, down in groups])
        back = cast(Tensor, _Permute.apply(done, inverse, order)).reshape(*chosen.shape, -1)
        # Switch-style balance loss: 1 when both the choices and the probabilities are even.
        balance = self.experts * (counts / flat.numel() * probability.mean(dim=0)).sum()
        return (back * weight.unsqueeze(-1)).sum(dim=1), balance, (chosen, weight)


def _expert(rows: Tensor, up: Tensor, down: Tensor) -> Tensor:
    gate, value = (rows @ up).chunk(2, dim=-1)
    return (functional.silu(gate) * value) @ down


class Block(nn.Module):
    """Causal self-attention and a MoE layer, both on normalised input with a residual."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.heads = shape.heads
        self.before_attention = nn.LayerNorm(shape.width)
        self.before_experts = nn.LayerNorm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        self.moe = MoELayer(shape)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Decisions]:
        """Map [sequences, length, width]; also gives the balance loss and the router decisions."""
        sequences, length, width = x.shape
        qkv = self.qkv(self.before_attention(x)).view(sequences, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(sequences, length, width))
        moved, balance, decisions = self.moe(self.before_experts(x).reshape(-1, width))
        return x + moved.view_as(x), balance, decisions


class LanguageModel(nn.Module):
    """Token and position embeddings, blocks, and a head tied to the token embedding."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.position = nn.Embedding(shape.context, shape.width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.position.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, list[Decisions]]:
        """Run [sequences, length] token ids.

        Returns:
            logits [sequences, length, vocabulary], the balance loss (mean over layers), and the router
            decisions of every layer with tokens in reading order.
        """
        x = self.embedding(tokens) + self.position.weight[: tokens.shape[1]]
        balance, decisions = x.new_zeros(()), []
        for block in self.blocks:
            x, one, chosen = block(x)
            balance = balance + one
            decisions.append(chosen)
        logits = functional.linear(self.norm(x), self.embedding.weight)
        return logits, balance / self.shape.layers, decisions
