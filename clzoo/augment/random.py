"""Counter-based randomness: a number is a pure function of (seed, epoch, sample, view, position).

So a view does not depend on workers, batch size, process count or resumption, and any view can be drawn again. The
mixer is the finaliser of SplitMix64 (Steele et al. 2014) in wrapping 64-bit integer arithmetic, exact on CPU and GPU.

The seed is mixed before the epoch is added to it: two seeds share no epoch (docs/pretraining.md says what they did).
"""

import torch

_MASK64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # odd, so that multiples of it visit all 64-bit numbers


def uniforms(seed: int, epoch: int, samples: torch.Tensor, view: int, count: int, start: int = 0) -> torch.Tensor:
    """Independent uniform numbers for each sample.

    Args:
        samples: (B,) indices into the data set, int64.
        view: number of the view; different views of a sample are independent.
        count: numbers per sample.
        start: the first number's position; position p holds the same number whatever count and start.

    Returns:
        (B, count) float32 in [0, 1), multiples of 2^-24.
    """
    state = _mix(torch.full_like(samples, _signed(seed * _GOLDEN)))
    for counter in (torch.full_like(samples, epoch), samples, torch.full_like(samples, view)):
        state = _mix(state + (counter + 1) * _signed(_GOLDEN))  # tensors wrap around, Python's integers do not
    positions = torch.arange(start + 1, start + count + 1, device=samples.device) * _signed(_GOLDEN)  # (count,)
    bits = _mix(_mix(state[:, None] + positions))  # (B, count)
    return _shift_right(bits, 40).float() / (1 << 24)


def uniform(seed: int, epoch: int, sample: int, view: int, position: int) -> float:
    """One of the numbers of `uniforms`, in Python's integers: for workers, where ten calls of torch cost more."""
    state = _mix_integer(seed * _GOLDEN & _MASK64)
    for counter in (epoch, sample, view):
        state = _mix_integer(state + (counter + 1) * _GOLDEN & _MASK64)
    return (_mix_integer(_mix_integer(state + (position + 1) * _GOLDEN & _MASK64)) >> 40) / (1 << 24)


def _mix_integer(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK64
    return x ^ (x >> 31)


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift: torch's `>>` on int64 repeats the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    """The int64 with the same low 64 bits."""
    x &= _MASK64
    return x - (1 << 64) if x >> 63 else x
