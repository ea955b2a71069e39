"""A VAE of random weights that makes one latent of eight pixels."""

from diffusers import AutoencoderKL


def vae(**settings) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=64,
        **settings,
    )


def vae_of_16_channels(scaling_factor: float, shift_factor: float) -> AutoencoderKL:
    """As SD 3 and FLUX have it."""
    return vae(
        latent_channels=16,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=True,
    )
