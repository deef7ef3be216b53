"""Pictures to look at: a batch at a glance, and pictures beside each other with titles and captions.

Drawn with Pillow, which torchvision brings along; it is imported when something is drawn.
"""

from torchdali.display._grid import grid
from torchdali.display._pictures import Pictures
from torchdali.display._show import show

__all__ = ["Pictures", "grid", "show"]
