"""Checkpoints of every family: the configuration, the weights and where the training stood."""

import dataclasses

import torch

from mamba import Mamba, MambaConfig
from mamba2 import Mamba2, Mamba2Config
from skeleton import MIXERS, Skeleton, SkeletonConfig

FAMILIES = {
    "mamba": (MambaConfig, Mamba),
    "mamba2": (Mamba2Config, Mamba2),
    **{family: (SkeletonConfig, Skeleton) for family in MIXERS},
}


def make_model(config):
    return FAMILIES[config.family][1](config)


def save(model, path, **progress):
    """Writes a checkpoint; it replaces the old one only when complete."""
    content = {"config": dataclasses.asdict(model.config), "weights": model.state_dict()}
    partial = path.with_suffix(".partial")
    torch.save({**content, **progress}, partial)
    partial.replace(path)


def load(path):
    """Returns the model of a checkpoint and the progress saved with it."""
    content = torch.load(path, weights_only=True)
    config = content.pop("config")
    model = make_model(FAMILIES[config["family"]][0](**config))
    model.load_state_dict(content.pop("weights"))
    return model.eval(), content
