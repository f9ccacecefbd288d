"""The plugin for pytest: limits of what a test may take, figures of every test, and a baseline of these."""
