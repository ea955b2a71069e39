"""A VAE of random weights that makes one latent of eight pixels."""

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

TINY = {
    "block_out_channels": (8, 8, 16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 64,
}
FULL = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512}


def vae(full: bool, **settings) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **(FULL if full else TINY) | settings,
    )


def vae_of_16_channels(full: bool, scaling_factor: float, shift_factor: float) -> AutoencoderKL:
    """As SD 3 and FLUX have it."""
    return vae(
        full,
        latent_channels=16,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=True,
    )
