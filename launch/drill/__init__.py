"""Drills: run a job quietly and under faults, and judge whether it held."""
