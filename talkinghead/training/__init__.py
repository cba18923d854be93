"""Learning: `meta` learns from many people, `finetune` learns one person, `state` lets a run go on."""
