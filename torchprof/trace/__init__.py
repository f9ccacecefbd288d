"""The trace: all that one recording knows, as numpy tables. The only contract between recording and analysis."""
