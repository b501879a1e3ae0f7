"""The reports of a run of prompts, and of a traced one."""
