"""`expo make-pairs`: pairs the samples of each prompt, or the candidates of each denoising step."""
