"""From a plan to artifacts: the run store, the runner, and the worker that runs one stage."""
