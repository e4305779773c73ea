"""Scores anybody's forecast in WeatherBench 2's schema against an analysis and against fitted baselines; imports no model."""
