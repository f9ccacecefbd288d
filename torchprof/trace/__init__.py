"""The trace: what one recording knows, as numpy tables. The only contract between recording and analysis. Needs numpy alone."""
