"""What requests need of torch and transformers, imported before the first of them."""

from __future__ import annotations

from caikit_pt.base_model.family import FAMILIES


def import_libraries() -> None:
    """Imports all that requests need. transformers' lazy imports fail when threads race for them."""
    import huggingface_hub
    import torch
    import transformers
    from transformers.generation import logits_process
    from transformers.models.auto import modeling_auto

    lazy = ("AutoConfig", "AutoTokenizer", *(family.auto_class for family in FAMILIES))
    more = ("DynamicCache", "EncoderDecoderCache", "GenerationConfig")
    _ = [getattr(transformers, name) for name in (*lazy, *more)]
    _ = [torch.nn, huggingface_hub.snapshot_download, logits_process, modeling_auto]
