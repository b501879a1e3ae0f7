"""Phenomena: which heads find the word that belongs to another, on sentences not chosen by."""
