"""One file per family of diffusion models, all behind `models.protocol.DiffusionModel`."""
