"""The page that `gpurun web` serves: who may see it, what it is told, and how. What it tells comes from a `Source`."""
