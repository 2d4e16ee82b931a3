"""Trials and audio: protocols, files, crops."""
