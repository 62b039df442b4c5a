"""Runs in which experts live in host memory or on a drive and come to the devices when they are needed."""
