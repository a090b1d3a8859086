import struct
import zlib

from . import UnidentifiedImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"


class DecompressionBombError(Exception):
    pass


class Image:
    def __init__(self, size, colour, data):
        self.size = size
        self.colour = colour
        # Of a file, and not yet decoded.
        self._data = data

    def convert(self, mode):
        if mode != "RGB" or not self._data.endswith(b"IEND\xaeB`\x82"):
            raise OSError("image file is truncated")
        return Image(self.size, zlib.crc32(self._data).to_bytes(4, "big")[:3], None)

    def save(self, file, *, format, pnginfo):
        width, height = self.size
        rows = (b"\0" + self.colour * width) * height
        header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        chunks = [header, *pnginfo.chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
        file.write(SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks))


def of(size, colour):
    return Image(size, colour, None)


def open(path, *, formats):
    data = path.read_bytes()
    if "PNG" not in formats or not data.startswith(SIGNATURE):
        raise UnidentifiedImageError(path)
    return Image(struct.unpack(">II", data[16:24]), None, data)


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
