"""SASRec and TiSASRec in PyTorch, as models.py runs them beside twotower.

Layers are those of pmixer/SASRec.pytorch and pmixer/TiSASRec.pytorch, with their first order of layer norms: the
queries are normalised, and the residual is added to them. Histories are padded on the left. `attention` names a form:

- `mha`: `nn.MultiheadAttention` and convolutions of width 1, as in pmixer/SASRec.pytorch.
- `sdpa`: `scaled_dot_product_attention` and linear layers.
- `newest`: as `sdpa`, and the last block computes the newest element alone. For inference.
- `tables`: the intervals' rows gathered to `[batch, length, length, dim]`, as in pmixer/TiSASRec.pytorch.
- `products`: the queries' products with all intervals' rows, gathered. Nothing is larger than
  `[batch, length, span + 1]`, and rows are dropped once a batch, not once a pair of elements.
"""
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from model_peers import LONGEST

HIDDEN_SCORE = -(2.0 ** 32)


class Attention(nn.Module):
    """One head of causal attention, with or without intervals."""

    def __init__(self, form: str, dim: int, dropout: float):
        super().__init__()
        self.form, self.dropout = form, dropout
        if form == "mha":
            self.whole = nn.MultiheadAttention(dim, 1, dropout, batch_first=True)
        else:
            self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, queries, x, hidden, clock):
        """`queries` `[batch, length or 1, dim]`, `x` `[batch, length, dim]`, `hidden` true where an element may not
        look, `[.., length, length]`, `clock` what `Times` made of a batch."""
        if self.form == "mha":
            return self.whole(queries, x, x, attn_mask=hidden)[0]
        q, k, v = self.query(queries), self.key(x), self.value(x)
        dropout = self.dropout if self.training else 0.0
        if clock is None:
            causal = q.shape[1] > 1
            return functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)
        scores = (q @ (k + clock.key_places).transpose(1, 2) + clock.scores(q)) / q.shape[-1] ** 0.5
        weights = torch.softmax(scores.masked_fill(hidden, HIDDEN_SCORE), -1)
        weights = functional.dropout(weights, dropout)
        return weights @ (v + clock.value_places) + clock.mean(weights)


class Times(nn.Module):
    """Tables of places and intervals, shared by all blocks, and what they are for a batch."""

    def __init__(self, form: str, length: int, dim: int, span: int, dropout: float):
        super().__init__()
        self.gathers, self.span, self.drop = form == "tables", span, nn.Dropout(dropout)
        self.places = nn.ModuleList(nn.Embedding(length, dim) for _ in range(2))
        self.intervals = nn.ModuleList(nn.Embedding(span + 1, dim) for _ in range(2))

    def of(self, times):
        """Reads a batch, `times` `[batch, length]`."""
        self.between = (times[:, :, None] - times[:, None, :]).abs_().clamp_(max=self.span)
        self.key_places, self.value_places = (self.drop(table.weight[-times.shape[1]:]) for table in self.places)
        read = (lambda table: table(self.between)) if self.gathers else (lambda table: table.weight)
        self.keys, self.values = (self.drop(read(table)) for table in self.intervals)
        return self

    def scores(self, q):
        """What intervals add to the scores, `[batch, length, length]`."""
        if self.gathers:
            return (self.keys @ q[..., None]).squeeze(-1)
        return (q @ self.keys.T).gather(2, self.between)

    def mean(self, weights):
        """The mean of the intervals' rows of values, `[batch, length, dim]`."""
        if self.gathers:
            return (weights[:, :, None, :] @ self.values).squeeze(2)
        by_interval = weights.new_zeros(*weights.shape[:2], self.span + 1)
        return by_interval.scatter_add(2, self.between, weights) @ self.values


class Pointwise(nn.Module):
    """A linear layer, or the convolution of width 1 that stands for it at pmixer."""

    def __init__(self, form: str, dim: int):
        super().__init__()
        self.convolves = form in ("mha", "tables")
        self.layer = nn.Conv1d(dim, dim, 1) if self.convolves else nn.Linear(dim, dim)

    def forward(self, x):
        return self.layer(x.transpose(1, 2)).transpose(1, 2) if self.convolves else self.layer(x)


class Block(nn.Module):
    """Attention and a feed-forward network."""

    def __init__(self, form: str, dim: int, dropout: float):
        super().__init__()
        self.attention = Attention(form, dim, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-8) for _ in range(2))
        self.forward_layers = nn.Sequential(Pointwise(form, dim), nn.Dropout(dropout), nn.ReLU(),
                                            Pointwise(form, dim), nn.Dropout(dropout))

    def forward(self, x, hidden, clock, newest):
        queries = self.norms[0](x[:, -1:] if newest else x)
        x = self.norms[1](queries + self.attention(queries, x, hidden, clock))
        return x + self.forward_layers(x)


class Sasrec(nn.Module):
    """SASRec, or TiSASRec where there is a span. Item 0 is padding."""

    def __init__(self, form: str, items: int, length: int, dim: int, blocks: int = 2, dropout: float = 0.2,
                 span: int | None = None):
        super().__init__()
        self.form = form
        self.items = nn.Embedding(items + 1, dim, padding_idx=0)
        self.places = None if span else nn.Embedding(length + 1, dim, padding_idx=0)
        self.times = Times(form, length, dim, span, dropout) if span else None
        self.blocks = nn.ModuleList(Block(form, dim, dropout) for _ in range(blocks))
        self.last_norm, self.drop = nn.LayerNorm(dim, eps=1e-8), nn.Dropout(dropout)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)

    def forward(self, items, times=None):
        """`items` `[batch, length]`; returns `[batch, length, dim]`, or `[batch, 1, dim]` in the form `newest`."""
        real = items != 0
        length = items.shape[1]
        x = self.items(items) * self.items.embedding_dim ** 0.5
        if self.places is not None:
            x = x + self.places(torch.arange(1, length + 1) * real)
        x = self.drop(x) * real[..., None]
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        clock = None
        if self.times is not None:
            clock, hidden = self.times.of(times), hidden | ~real[:, :, None]
        for number, block in enumerate(self.blocks):
            newest = self.form == "newest" and number + 1 == len(self.blocks)
            x = block(x, hidden, clock, newest)
            x = x * real[:, -x.shape[1]:, None]
        return self.last_norm(x)


class Users:
    """All users' histories, the items to predict and the times, `[users, length]`, padded on the left."""

    def __init__(self, folder: str):
        with np.load(f"{folder}/events.npz") as events:
            offsets, items, times = events["offsets"], events["items"], events["times"]
            self.catalogue = int(events["catalogue"])
        many = np.flatnonzero(np.diff(offsets) > 1)
        self.read, self.predict, self.times = (np.zeros((len(many), LONGEST - 1), np.int64) for _ in range(3))
        self.seen = np.zeros((len(many), self.catalogue + 1), bool)
        for row, user in enumerate(many):
            own = slice(offsets[user], offsets[user + 1])
            first = LONGEST - (own.stop - own.start)
            self.read[row, first:], self.predict[row, first:] = items[own][:-1], items[own][1:]
            self.seen[row, items[own]] = True
            # The personal scale of the paper: times in units of the user's shortest gap, pads at 0.
            gaps = np.diff(times[own])
            unit = gaps[gaps > 0].min(initial=np.iinfo(np.int64).max)
            self.times[row, first:] = np.rint((times[own][:-1] - times[own][0]) / unit) + 1

    def negatives(self, rng, users):
        """An item that its user did not take, uniformly, for each of `users`."""
        drawn = rng.integers(1, self.catalogue + 1, len(users))
        while len(again := np.flatnonzero(self.seen[users, drawn])):
            drawn[again] = rng.integers(1, self.catalogue + 1, len(again))
        return torch.from_numpy(drawn)
