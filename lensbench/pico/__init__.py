"""A small model of one's own: trained from random weights, kept at many steps, and opened up."""
