"""One word in several contexts: at which layer its senses part."""
