"""Who does the jobs of a run: workers on this machine or on a Ray cluster.

Ray is read only when somebody asks for workers.
"""
