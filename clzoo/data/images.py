"""Where decoding was before it had a room of its own: programs of others import it from here."""

from clzoo.images import as_rgb, decode_image, max_pixels, set_max_pixels

__all__ = ["as_rgb", "decode_image", "max_pixels", "set_max_pixels"]
