"""From one checkpoint to another: the plan, the recipe, the writing, the proof."""
