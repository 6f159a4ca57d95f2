"""A run finds its sources wherever it is, and a source that changed since the fetch is not cut."""
