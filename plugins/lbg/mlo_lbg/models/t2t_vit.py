"""T2T-ViT: a vision transformer whose tokens are built in steps from overlapping patches."""

import math

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from mlo_lbg.models.size import ModelError

_WIDTH, _HEADS, _MLP_RATIO = 384, 6, 3
"""Of T2T-ViT-14: features of a token, attention heads, hidden width of a block's perceptron."""

_TOKEN_WIDTH, _RANDOM_FEATURES = 64, 32
"""Of the tokens-to-token modules: features of a token, random features (half as many)."""

_PATCH = 16
"""Pixels between the centres of neighbouring tokens: the product of the three strides."""

_SMALLEST = 1e-8
"""Keeps a quotient of two underflowing attention sums finite."""


class RandomFeatureAttention(nn.Module):
    """One-head attention at linear cost, then a perceptron: the Performer of tokens-to-token.

    `exp(q·k)` is estimated by `φ(q)·φ(k)` with `φ(x) = exp(W x − |x|²/2) / √m`, so that
    `y_t = φ(q_t)·Σ_s φ(k_s) v_sᵀ / φ(q_t)·Σ_s φ(k_s)`. W holds m orthogonal rows of
    length √m, drawn once and never trained: a buffer. As in the published network that is √2 short
    of the length for which the estimate has no bias.

    Args:
        before: Features of an input token.
        dropout: Share of features that is dropped after attention and after the perceptron.

    References:
        Choromanski et al. (2021), Rethinking attention with performers, arXiv 2009.14794.
    """

    directions: Tensor

    def __init__(self, before: int, *, dropout: float) -> None:
        super().__init__()
        after = _TOKEN_WIDTH
        self.norm = nn.LayerNorm(before)
        self.key_query_value = nn.Linear(before, 3 * after)
        self.mix = nn.Sequential(nn.Linear(after, after), nn.Dropout(dropout))
        self.perceptron = nn.Sequential(
            nn.LayerNorm(after),
            nn.Linear(after, after),
            nn.GELU(),
            nn.Linear(after, after),
            nn.Dropout(dropout),
        )
        rows = nn.init.orthogonal_(torch.empty(_RANDOM_FEATURES, after))
        self.register_buffer("directions", rows * math.sqrt(_RANDOM_FEATURES))

    def _features(self, vectors: Tensor) -> Tensor:
        exponent = vectors @ self.directions.T - vectors.square().sum(-1, keepdim=True) / 2
        return exponent.exp() / math.sqrt(_RANDOM_FEATURES)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(batch, tokens, before)` to `(batch, tokens, 64)`."""
        key, query, value = self.key_query_value(self.norm(tokens)).chunk(3, dim=-1)
        key, query = self._features(key), self._features(query)
        summed = query @ (key.transpose(1, 2) @ value)
        total = query @ key.sum(1).unsqueeze(-1)
        attended = value + self.mix(summed / (total + _SMALLEST))
        output: Tensor = attended + self.perceptron(attended)
        return output


class Tokens(nn.Module):
    """Images to tokens, 1/16 as many a side: three soft splits with two attentions between them.

    A soft split concatenates the pixels, or tokens, of overlapping windows.

    Args:
        dropout: Of both attentions.
    """

    def __init__(self, *, dropout: float) -> None:
        super().__init__()
        self.splits = nn.ModuleList(
            [nn.Unfold(7, stride=4, padding=2), *(nn.Unfold(3, stride=2, padding=1),) * 2]
        )
        self.attentions = nn.ModuleList(
            RandomFeatureAttention(before, dropout=dropout)
            for before in (3 * 7 * 7, _TOKEN_WIDTH * 3 * 3)
        )
        self.project = nn.Linear(_TOKEN_WIDTH * 3 * 3, _WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        """`(batch, 3, size, size)` to `(batch, (size / 16)², 384)`."""
        first, *others = self.splits
        tokens = first(images).transpose(1, 2)
        side = images.shape[-1] // 4
        for attention, split in zip(self.attentions, others, strict=True):
            grid = attention(tokens).transpose(1, 2).unflatten(-1, (side, side))
            tokens = split(grid).transpose(1, 2)
            side //= 2
        projected: Tensor = self.project(tokens)
        return projected


class Attention(nn.Module):
    """`softmax(q kᵀ / √d) v` in 6 heads, then a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(_WIDTH, 3 * _WIDTH, bias=False)
        self.mix = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(batch, tokens, 384)` to the same shape."""
        heads = self.query_key_value(tokens).unflatten(-1, (3, _HEADS, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        # Not the fused kernel: it has no second derivative, which hypergradients may need.
        weights = (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(-1)
        output: Tensor = self.mix((weights @ value).transpose(1, 2).flatten(2))
        return output


class TransformerBlock(nn.Module):
    """`x + attention(x)`, then `x + perceptron(x)`, each normalised before.

    Args:
        skipped: Probability that a row skips a branch in training.
    """

    def __init__(self, *, skipped: float) -> None:
        super().__init__()
        hidden = _MLP_RATIO * _WIDTH
        self.attention = nn.Sequential(
            nn.LayerNorm(_WIDTH), Attention(), StochasticDepth(skipped, "row")
        )
        self.perceptron = nn.Sequential(
            nn.LayerNorm(_WIDTH),
            nn.Linear(_WIDTH, hidden),
            nn.GELU(),
            nn.Linear(hidden, _WIDTH),
            StochasticDepth(skipped, "row"),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """`(batch, tokens, 384)` to the same shape."""
        attended = tokens + self.attention(tokens)
        output: Tensor = attended + self.perceptron(attended)
        return output


def sinusoids(positions: int, width: int) -> Tensor:
    """`(positions, width)`: entry (p, 2i) is `sin(p / 10000^(2i/width))`, (p, 2i + 1) its cosine.

    >>> sinusoids(2, 4)
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0100, 0.9999]])
    """
    even = torch.arange(0, width, 2, dtype=torch.float64)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] / 10000 ** (even / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()


class T2tVit(nn.Module):
    """T2T-ViT with the width of T2T-ViT-14, and any number of transformer blocks.

    At depth 14 and 1000 classes it has the 21,465,806 trainable parameters of the paper's network.
    Position embeddings (sinusoids) and random features are not trained: they are buffers, which
    `num_parameters` does not count.

    Args:
        classes: Number of outputs.
        depth: Transformer blocks, at least 1.
        image_size: Height and width of the images, a multiple of 16.
        dropout: In the two tokens-to-token attentions.
        stochastic_depth: Probability that the last block is skipped in training, growing linearly
            from 0 at the first.

    Raises:
        ModelError: If the depth or the image size is out of range.

    References:
        Yuan et al. (2021), Tokens-to-token ViT, arXiv 2101.11986.

    >>> T2tVit(classes=10, depth=1, image_size=32)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    positions: Tensor

    def __init__(
        self,
        *,
        classes: int,
        depth: int = 14,
        image_size: int = 224,
        dropout: float = 0.1,
        stochastic_depth: float = 0.1,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ModelError(f"depth: expected at least 1, got {depth}")
        if image_size < _PATCH or image_size % _PATCH:
            raise ModelError(
                f"image_size: expected a positive multiple of {_PATCH}, got {image_size}"
            )
        self.image_size = image_size
        self.tokens = Tokens(dropout=dropout)
        self.summary = nn.Parameter(torch.zeros(_WIDTH))
        self.register_buffer("positions", sinusoids((image_size // _PATCH) ** 2 + 1, _WIDTH))
        self.blocks = nn.Sequential(
            *(
                TransformerBlock(skipped=stochastic_depth * place / max(1, depth - 1))
                for place in range(depth)
            )
        )
        self.norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, classes)
        nn.init.trunc_normal_(self.summary, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images `(batch, 3, image_size, image_size)` to `(batch, classes)` logits.

        Raises:
            ModelError: If the images have another size.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise ModelError(
                f"images: expected height and width {self.image_size} as image_size says, "
                f"got {tuple(images.shape[-2:])}"
            )
        summary = self.summary.expand(len(images), 1, -1)
        tokens = torch.cat([summary, self.tokens(images)], dim=1) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(tokens)[:, 0]))
        return logits
