"""The tower in plain torch."""
import torch


class Tower(torch.nn.Module):
    """A table per code feature, then linear layers with PReLU between them, then unit length."""

    def __init__(self, cardinalities: list[int], embedding: int, hidden: list[int], numbers: int = 0,
                 sparse: bool = False):
        super().__init__()
        self.tables = torch.nn.ModuleList(torch.nn.Embedding(n, embedding, sparse=sparse) for n in cardinalities)
        for table in self.tables:
            torch.nn.init.normal_(table.weight, std=0.05)
        widths = [len(cardinalities) * embedding + numbers, *hidden]
        layers = []
        for a, b in zip(widths, widths[1:]):
            layers += [torch.nn.Linear(a, b), torch.nn.PReLU()]
        self.layers = torch.nn.Sequential(*layers[:-1])

    def forward(self, codes: torch.Tensor, numbers: torch.Tensor | None = None) -> torch.Tensor:
        """`codes` int `[rows, features]`, `numbers` float `[rows, numbers]`; returns `[rows, hidden[-1]]`."""
        parts = [table(codes[:, i]) for i, table in enumerate(self.tables)]
        parts += [] if numbers is None else [numbers]
        return torch.nn.functional.normalize(self.layers(torch.cat(parts, dim=1)))
