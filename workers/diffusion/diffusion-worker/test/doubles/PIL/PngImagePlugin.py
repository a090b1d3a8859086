class PngInfo:
    def __init__(self):
        self.chunks = []

    def add_itxt(self, key, value):
        self.chunks.append((b"iTXt", key.encode("latin-1") + b"\0\0\0\0\0" + value.encode()))
