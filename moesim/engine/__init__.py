"""Turns decisions into time, bytes and memory."""
