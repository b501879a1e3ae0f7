"""Removing directions from states: does what a lens reads matter to the model?"""
