"""Metrics: numbers from chosen answers. Know no model."""
