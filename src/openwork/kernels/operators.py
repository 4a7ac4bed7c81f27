"""The library in which the kernels are ordinary PyTorch operators, ``torch.ops.openwork``."""

import torch

operators = torch.library.Library("openwork", "DEF")
