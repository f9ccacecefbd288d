"""What a person could change, and how much that is worth: findings of rules, one rule a file in ``rules/``."""
