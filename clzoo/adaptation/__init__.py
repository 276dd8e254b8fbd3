"""Adapt an encoder to one's own images, and say whether it helped. docs/adapt.md"""

from clzoo.adaptation.distillation import Distillation, distil
from clzoo.adaptation.run import Adaptation, adapt
from clzoo.adaptation.verdict import Gain, Verdict, gain_of, judge

__all__ = ["Adaptation", "Distillation", "Gain", "Verdict", "adapt", "distil", "gain_of", "judge"]
