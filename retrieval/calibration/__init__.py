"""Shipped calibrations, written by `retrieval.calibrate`."""
