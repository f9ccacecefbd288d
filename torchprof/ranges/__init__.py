"""Ranges of modules for other profilers, such as Nsight Systems and VTune."""
