"""Every test runs torch on one core: small networks gain nothing from a team of threads, and can lose a lot."""

import torch

torch.set_num_threads(1)
