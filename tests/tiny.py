"""Tiny Stable Diffusion and SDXL folders with random weights, for tests.

They are real ``diffusers`` folders with the same modules as the big ones. The weights are scaled
so that the text changes the predicted noise about as much as in a trained model; a network whose
cross-attention does nothing would let a broken eraser pass.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)
from transformers.models.clip.tokenization_clip import pre_tokenizers

LENGTH = 48
WIDTH = 16


def tokenizer() -> CLIPTokenizer:
    """Byte-level, without merges: a token a byte, so that any string encodes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*alphabet, *(f"{c}</w>" for c in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={name: index for index, name in enumerate(names)}, merges=[], model_max_length=LENGTH
    )


def text_config(words: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=WIDTH,
        initializer_range=0.3,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )


def unet(**changes) -> UNet2DConditionModel:
    settings = dict(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    model = UNet2DConditionModel(**{**settings, **changes})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".attn2.to_" in name and name.endswith("weight"):
                parameter.mul_(4)
    return model


def scheduler(**changes) -> DDIMScheduler:
    settings = dict(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    return DDIMScheduler(**{**settings, **changes})


def tiny_sd(folder: Path | str, seed: int = 0, prediction_type: str = "epsilon") -> Path:
    """Write a StableDiffusionPipeline with 4x8x8 latents and 16x16 pictures."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        words = tokenizer()
        pipeline = StableDiffusionPipeline(
            vae=autoencoder(),
            text_encoder=CLIPTextModel(text_config(words)),
            tokenizer=words,
            unet=unet(),
            scheduler=scheduler(prediction_type=prediction_type),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)
    return Path(folder)


def tiny_sdxl(folder: Path | str, seed: int = 0) -> Path:
    """Write a StableDiffusionXLPipeline with 4x8x8 latents and 16x16 pictures."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        words = tokenizer()
        pipeline = StableDiffusionXLPipeline(
            vae=autoencoder(),
            text_encoder=CLIPTextModel(text_config(words)),
            text_encoder_2=CLIPTextModelWithProjection(text_config(words)),
            tokenizer=words,
            tokenizer_2=words,
            unet=unet(
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2),
                use_linear_projection=True,
                cross_attention_dim=2 * WIDTH,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + WIDTH,
            ),
            scheduler=scheduler(),
            add_watermarker=False,
        )
    pipeline.save_pretrained(folder)
    return Path(folder)


OBJECTS = ("tree", "cat", "boat")


def tiny_labels(
    folder: Path | str, seed: int = 0, prediction_type: str = "epsilon", patch: int = 2
) -> Path:
    """Write a LabelPipeline of three classes with 16x16 pictures."""
    from mu_vision.models.labels import LabelPipeline

    channels = 3 * patch**2
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet2DModel(
            sample_size=16 // patch,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            norm_num_groups=4,
            num_class_embeds=len(OBJECTS) + 1,
        )
        noise = DDIMScheduler(
            beta_schedule="linear",
            clip_sample=False,
            timestep_spacing="trailing",
            prediction_type=prediction_type,
        )
        pipeline = LabelPipeline(network, noise, dict(enumerate(OBJECTS)), patch)
    pipeline.save_pretrained(folder)
    return Path(folder)
