"""The folder that ``torchprof run`` puts first into the PYTHONPATH of what it starts, for its ``sitecustomize.py``."""
