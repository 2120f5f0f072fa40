"""LightGCN in PyTorch, as models.py runs it beside twotower.

`form` says how the adjacency is kept:

- `coo`: a coalesced COO tensor and `torch.sparse.mm`, as in gusye1234/LightGCN-PyTorch and RecBole.
- `csr`: a CSR tensor. Its backward pass is a product with the same tensor, since the adjacency is symmetric.
"""
import torch
from torch import nn


class Product(torch.autograd.Function):
    """A symmetric sparse matrix times a dense one."""

    @staticmethod
    def forward(context, matrix, x):
        context.matrix = matrix
        return matrix @ x

    @staticmethod
    def backward(context, d):
        return None, context.matrix @ d


class LightGCN(nn.Module):
    """Users are the nodes before items. Calling it gives the final vectors of all, the mean of all layers."""

    def __init__(self, form: str, users, items, nodes: list[int], layers: int, dim: int):
        super().__init__()
        count = sum(nodes)
        self.form, self.layers = form, layers
        self.first = nn.Parameter(nn.init.xavier_uniform_(torch.empty(count, dim)))
        items = nodes[0] + items
        places = torch.stack([torch.cat([users, items]), torch.cat([items, users])])
        degrees = torch.bincount(places[0], minlength=count).clamp(min=1).float().rsqrt()
        values = degrees[places[0]] * degrees[places[1]]
        adjacency = torch.sparse_coo_tensor(places, values, (count, count)).coalesce()
        self.adjacency = adjacency if form == "coo" else adjacency.to_sparse_csr()

    def forward(self):
        layer, total = self.first, self.first
        for _ in range(self.layers):
            layer = torch.sparse.mm(self.adjacency, layer) if self.form == "coo" else Product.apply(self.adjacency, layer)
            total = total + layer
        return total / (self.layers + 1)
