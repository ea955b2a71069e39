"""One file a family of diffusion models, all behind `models.protocol.DiffusionModel`."""
