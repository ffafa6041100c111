"""The core pool: one lane over all model cores, and the calls that use it; what embeds, and its lane."""
