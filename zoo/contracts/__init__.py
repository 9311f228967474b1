"""What a plugin author implements: a provider and its backbones, a head, a training method.

One contract, one file. The public names stand in ``zoo`` itself; nothing is imported here, so that reading a catalog
does not import torch.
"""
