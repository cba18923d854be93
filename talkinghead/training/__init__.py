"""Training: `meta` learns from many people, `finetune` learns one person, `resume` continues a run."""
