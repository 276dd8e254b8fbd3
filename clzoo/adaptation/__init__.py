"""Adapt an encoder to one's own images, and say whether it helped. docs/adapt.md"""

from clzoo.adaptation.verdict import Gain, Verdict, gain_of, judge

__all__ = ["Gain", "Verdict", "gain_of", "judge"]
