"""Of Pillow, what the worker for diffusers asks of it: images of one colour, as PNGs."""


class UnidentifiedImageError(OSError):
    pass
