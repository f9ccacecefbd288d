"""What ``torchprof run`` does inside the program that it records: see ``launch.py`` for how it gets there."""
