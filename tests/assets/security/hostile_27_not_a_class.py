# expect: reject
# attack: the name is a function
# category: source
# signal: contract
# stage: import
import torch
import torch.nn as nn
import torch.nn.functional as F


def FusionModule(image_dim, text_dim, dim):
    return nn.Identity()
