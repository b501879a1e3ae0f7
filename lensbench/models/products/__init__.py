"""How a head is multiplied: its numbers in parts that matrix units take."""
