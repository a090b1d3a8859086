"""A decoder of the Llama architecture over bytes. Its tensors are named as a GGUF file of that architecture names them."""
import torch
from torch import nn
from torch.nn import functional

# Before the bytes come three tokens that every such tokenizer has: unknown, beginning, end. No text has them.
FIRST_BYTE = 3
VOCABULARY = FIRST_BYTE + 256
EPSILON = 1e-5
ROPE_BASE = 10_000.0


class Model(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size = size
        self.token_embd = nn.Embedding(VOCABULARY, size.width)
        self.blk = nn.ModuleList(_Block(size) for _ in range(size.layers))
        self.output_norm = nn.RMSNorm(size.width, eps=EPSILON)

    def start(self, seed):
        """Draws the weights."""
        generator = torch.Generator().manual_seed(seed)
        ends = ("attn_output.weight", "ffn_down.weight")
        for name, weight in self.named_parameters():
            if weight.dim() == 1:
                continue
            # What every layer adds to the sum is to leave its size alone.
            deviation = 0.02 / (2 * self.size.layers) ** 0.5 if name.endswith(ends) else 0.02
            weight.data.copy_(torch.randn(weight.shape, generator=generator) * deviation)

    def forward(self, tokens):
        rotation = _rotation(tokens.shape[1], self.size.head_width, tokens.device)
        x = self.token_embd(tokens)
        for block in self.blk:
            x = block(x, rotation)
        # The same matrix reads and writes tokens.
        return functional.linear(self.output_norm(x), self.token_embd.weight)

    def loss(self, windows):
        """The mean over all tokens but each window's first, in nats."""
        logits = self(windows[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    def parameter_count(self):
        return sum(weight.numel() for weight in self.parameters())


class _Block(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size = size
        width, shared = size.width, size.kv_heads * size.head_width
        self.attn_norm = nn.RMSNorm(width, eps=EPSILON)
        self.attn_q = nn.Linear(width, width, bias=False)
        self.attn_k = nn.Linear(width, shared, bias=False)
        self.attn_v = nn.Linear(width, shared, bias=False)
        self.attn_output = nn.Linear(width, width, bias=False)
        self.ffn_norm = nn.RMSNorm(width, eps=EPSILON)
        self.ffn_gate = nn.Linear(width, size.forward_width, bias=False)
        self.ffn_up = nn.Linear(width, size.forward_width, bias=False)
        self.ffn_down = nn.Linear(size.forward_width, width, bias=False)

    def forward(self, x, rotation):
        x = x + self._attention(self.attn_norm(x), rotation)
        normal = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(normal)) * self.ffn_up(normal))

    def _attention(self, x, rotation):
        heads, kv_heads = self.size.heads, self.size.kv_heads
        query = _rotate(self._split(self.attn_q(x), heads), rotation)
        key = _rotate(self._split(self.attn_k(x), kv_heads), rotation)
        value = self._split(self.attn_v(x), kv_heads)
        key, value = (part.repeat_interleave(heads // kv_heads, dim=1) for part in (key, value))
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.attn_output(seen.transpose(1, 2).flatten(2))

    def _split(self, x, heads):
        return x.unflatten(2, (heads, self.size.head_width)).transpose(1, 2)


def _rotation(length, head_width, device):
    speeds = ROPE_BASE ** (-torch.arange(0, head_width, 2, device=device) / head_width)
    angles = torch.outer(torch.arange(length, device=device), speeds)
    return angles.cos(), angles.sin()


def _rotate(x, rotation):
    """Neighbours are pairs, as llama.cpp has it for this architecture: nothing is to be permuted when the weights are written."""
    cos, sin = rotation
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
