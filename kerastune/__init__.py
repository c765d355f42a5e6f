"""Fine-tune a pretrained KerasHub model from one recipe, and ship it with proof."""
