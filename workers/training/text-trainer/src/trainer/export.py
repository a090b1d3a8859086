"""A model's weights as the files that others read."""
import json
import struct

from .model import EPSILON, FIRST_BYTE, ROPE_BASE

ALIGNMENT = 32
# Types of values, and what a token is, as the format numbers them.
UINT32, INT32, FLOAT32, BOOL, TEXT, LIST = 4, 5, 6, 7, 8, 9
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
F32 = 0
# U+2581: what such tokenizers see in the place of a space.
SPACE = "\u2581"


def write_safetensors(file, weights):
    """Names and shapes as the model has them."""
    header, end = {}, 0
    for name, weight in weights.items():
        begin, end = end, end + weight.numel() * 4
        header[name] = {"dtype": "F32", "shape": list(weight.shape), "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    file.write(struct.pack("<Q", len(raw)) + raw)
    for weight in weights.values():
        file.write(_bytes(weight))


def write_gguf(file, weights, size, context, name):
    """Version 3, of the llama architecture, with a tokenizer that makes one token of each byte."""
    metadata = _metadata(size, context, name)
    header = [b"GGUF", struct.pack("<IQQ", 3, len(weights), len(metadata)), *metadata]
    offset = 0
    for tensor, weight in weights.items():
        # The fastest dimension comes first.
        shape = list(reversed(weight.shape))
        header.append(_text(tensor) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, F32, offset))
        offset += _aligned(weight.numel() * 4)
    _write_aligned(file, b"".join(header))
    for weight in weights.values():
        _write_aligned(file, _bytes(weight))


def _metadata(size, context, name):
    pieces = ["<unk>", "<s>", "</s>", *(SPACE if byte == 0x20 else f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [UNKNOWN, CONTROL, CONTROL, *(NORMAL if byte == 0x20 else BYTE for byte in range(256))]
    assert len(pieces) == FIRST_BYTE + 256
    return [
        _entry("general.architecture", TEXT, _text("llama")),
        _entry("general.name", TEXT, _text(name)),
        _number("llama.context_length", context),
        _number("llama.embedding_length", size.width),
        _number("llama.block_count", size.layers),
        _number("llama.feed_forward_length", size.forward_width),
        _number("llama.rope.dimension_count", size.head_width),
        _number("llama.attention.head_count", size.heads),
        _number("llama.attention.head_count_kv", size.kv_heads),
        _entry("llama.attention.layer_norm_rms_epsilon", FLOAT32, struct.pack("<f", EPSILON)),
        _entry("llama.rope.freq_base", FLOAT32, struct.pack("<f", ROPE_BASE)),
        _entry("tokenizer.ggml.model", TEXT, _text("llama")),
        _list("tokenizer.ggml.tokens", TEXT, [_text(piece) for piece in pieces]),
        _list("tokenizer.ggml.scores", FLOAT32, [struct.pack("<f", 0.0)] * len(pieces)),
        _list("tokenizer.ggml.token_type", INT32, [struct.pack("<i", kind) for kind in kinds]),
        # The model has seen neither: a text begins with its first byte.
        _entry("tokenizer.ggml.add_bos_token", BOOL, b"\0"),
        _entry("tokenizer.ggml.add_space_prefix", BOOL, b"\0"),
    ]


def _number(key, value):
    return _entry(key, UINT32, struct.pack("<I", value))


def _list(key, kind, items):
    return _entry(key, LIST, struct.pack("<IQ", kind, len(items)) + b"".join(items))


def _entry(key, kind, value):
    return _text(key) + struct.pack("<I", kind) + value


def _text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _bytes(weight):
    return weight.float().contiguous().numpy().tobytes()


def _write_aligned(file, raw):
    file.write(raw + b"\0" * (_aligned(len(raw)) - len(raw)))


def _aligned(size):
    return -(-size // ALIGNMENT) * ALIGNMENT
