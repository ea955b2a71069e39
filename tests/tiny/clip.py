"""CLIP text encoders of random weights."""

from transformers import CLIPTextConfig


def clip_text_config(hidden_size: int, **settings) -> CLIPTextConfig:
    """With CLIP's own vocabulary and end marks; three layers."""
    return CLIPTextConfig(
        **{
            "vocab_size": 49408,
            "hidden_size": hidden_size,
            "intermediate_size": 2 * hidden_size,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "hidden_act": "quick_gelu",
            "projection_dim": hidden_size,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
        }
        | settings
    )
